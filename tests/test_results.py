"""The figures of README.md, CONTRIBUTING.md and docs/ are those of the committed result files."""

import re

import pytest
from benchmarks.result_files import RESULTS
from benchmarks.write_docs import TABLES, documents, filled


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_tables_are_those_of_the_result_files(path):
    text = path.read_text()
    assert filled(text) == text, "run make docs"


@pytest.mark.parametrize("name", TABLES)
def test_every_table_is_used(name):
    assert any(f"<!-- results:{name} -->" in path.read_text() for path in documents())


def test_every_result_file_says_what_it_was_measured_with():
    files = sorted(RESULTS.rglob("*.json"))
    assert files
    for path in files:
        assert re.search(r'"versions": \{\s*"deepidea"', path.read_text()), path.name
