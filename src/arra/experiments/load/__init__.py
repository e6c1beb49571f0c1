"""Load: many clients ask at random times, and ways of answering them are compared.

The same clients with the same arrivals meet one request at a time, static batches and the running
batch of `arra serve`. Open loop: who arrives does not wait until others are served, so a way that
is too slow shows it by its latency.
"""
