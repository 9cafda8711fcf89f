"""What a number was made with."""

from __future__ import annotations

import datetime
import platform

import numpy
import torch

from lmmem.provenance import environment, processor


def test_versions_are_those_of_the_imported_packages():
    found = environment()
    assert found["torch"] == torch.__version__
    assert found["numpy"] == numpy.__version__
    assert found["python"] == platform.python_version()


def test_date_is_now_in_utc():
    date = datetime.datetime.fromisoformat(environment()["date"])
    assert abs(datetime.datetime.now(datetime.UTC) - date) < datetime.timedelta(minutes=1)


def test_processor_has_a_name():
    assert processor()
    assert environment()["processor"] == processor()
