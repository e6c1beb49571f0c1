"""Logs for machines: a JSON object on each line."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

FIELDS = "arra_fields"
"""Attribute of a log record that holds more entries of its JSON object."""


class JsonLines(logging.Formatter):
    """A record as one line of JSON; text from outside cannot begin a line of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, FIELDS, {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def log_fields(logger: logging.Logger, event: str, **fields: object) -> None:
    """Log `event` with these entries beside it."""
    logger.info(event, extra={FIELDS: fields})


def log_as_json() -> None:
    """Let the server's loggers write lines of JSON to the standard error stream."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    for name, level in (("arra.serving", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
