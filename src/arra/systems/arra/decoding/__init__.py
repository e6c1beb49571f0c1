"""What decoding in fewer steps is worth: `arra bench decoding`."""
