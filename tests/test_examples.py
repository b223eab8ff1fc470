"""What people are shown runs."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gigafactory.blueprint.load import grow, load, parse, read_tree
from gigafactory.factory.state import diagram
from gigafactory.plan import Measured, make, submit

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("example", sorted(p.name for p in (ROOT / "examples").glob("*.py")))
def test_an_example_runs_and_prints_something(example):
    ran = subprocess.run(
        [sys.executable, str(ROOT / "examples" / example)], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip()


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.yaml")))
def test_a_blueprint_of_the_examples_is_planned_and_a_job_quoted_by_the_laptop(example):
    tree = json.loads(json.dumps(read_tree(example.read_text(), example), default=str))
    if "gigafactory" in tree:
        assert make(load(str(example))).jobs
        return
    laptop, name = load("laptop"), tree.pop("name")
    quoted = submit(laptop, name, grow(laptop, name, tree), Measured())
    assert quoted.quote.duration_s.value > 0


def test_the_blueprint_in_the_manual_can_be_planned():
    text = (ROOT / "docs" / "blueprint.md").read_text()
    (example,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert len(example.splitlines()) <= 45
    assert make(parse(example, Path("manual.yaml"))).jobs


def test_the_diagram_of_a_job_s_life_is_the_table_s():
    assert diagram() in (ROOT / "CONTRIBUTING.md").read_text()


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "CONTRIBUTING.md",
        *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")),
    ],
)
def test_a_page_has_no_broken_link_and_no_empty_place(page):
    text = (ROOT / page).read_text()
    assert not re.findall(r"@[A-Z]+@", text)
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert ((ROOT / page).parent / link).exists(), link
