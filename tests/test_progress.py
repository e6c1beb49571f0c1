"""Progress: shown in a log, silent when asked, and other libraries' bars kept out of it."""

from __future__ import annotations

import subprocess
import sys

import pytest
from huggingface_hub.utils import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

from arra.generators.raster import RasterGenerator
from arra.progress import track, without_library_bars


@pytest.mark.parametrize(
    ("quiet", "variable", "shown"),
    [(False, None, True), (False, "0", True), (False, "1", False), (True, None, False)],
)
def test_progress_is_silent_when_asked(capsys, monkeypatch, quiet, variable, shown):
    monkeypatch.delenv("ARRA_QUIET", raising=False)
    if variable is not None:
        monkeypatch.setenv("ARRA_QUIET", variable)
    with track("work", 2, quiet) as task:
        task.advance(2, "loss 1")
    assert task.done == 2
    assert ("work: 2/2" in capsys.readouterr().err) == shown


def test_models_are_saved_and_loaded_without_bars(tmp_path, capfd):
    RasterGenerator.tiny().save_pretrained(tmp_path / "model")
    RasterGenerator.from_pretrained(tmp_path / "model")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("hub", [True, False])
@pytest.mark.parametrize("own", [True, False])
def test_the_callers_bars_are_as_before(hub, own):
    from transformers.utils import logging

    before = logging.is_progress_bar_enabled(), are_progress_bars_disabled()
    try:
        (logging.enable_progress_bar if own else logging.disable_progress_bar)()
        (enable_progress_bars if hub else disable_progress_bars)()
        with without_library_bars():
            assert not logging.is_progress_bar_enabled()
            assert are_progress_bars_disabled()
        assert logging.is_progress_bar_enabled() == own
        assert are_progress_bars_disabled() != hub
    finally:
        (logging.enable_progress_bar if before[0] else logging.disable_progress_bar)()
        (disable_progress_bars if before[1] else enable_progress_bars)()


def test_a_library_that_is_first_imported_within_is_switched_on_again():
    script = """
from arra.progress import without_library_bars
with without_library_bars():
    from transformers.utils import logging
    assert not logging.is_progress_bar_enabled()
assert logging.is_progress_bar_enabled()
"""
    subprocess.run([sys.executable, "-c", script], check=True)
