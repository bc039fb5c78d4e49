"""Holds the documents to the truth, and the checker to its promises: each planted fault must be found."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.documents import project
from tests.documents.markdown import Page
from tests.documents.rules import findings, told_defaults


def read_all() -> dict[str, Page]:
    names = sorted(name for name in project.files() if name.endswith(".md"))
    return {name: Page(name, (project.ROOT / name).read_text()) for name in names}


def test_the_documents_tell_the_truth() -> None:
    found = findings(read_all())
    assert not found, "\n" + "\n".join(found)


def test_the_documents_have_what_is_compared_with_the_code() -> None:
    pages = read_all().values()
    gate = {"--min-accuracy", "--min-accuracy-lower-bound", "--min-class-recall", "--max-regression"}
    told = {option for page in pages for _, options, _ in told_defaults(page) for option in options}
    assert told >= gate | {"--epochs", "--batch-size", "--learning-rate", "--seeds", "--device", "--store"}
    assert any(table.rows[0][0] == "candidates that pass" for page in pages for table in page.tables)


def found_in(text: str, **more: str) -> list[str]:
    """What is wrong with page.md, to which the README leads."""
    texts = {
        "README.md": "[page](page.md) [guide](deployments/README.md)",
        "deployments/README.md": "",
        "page.md": text,
    }
    return findings({name: Page(name, each) for name, each in (texts | more).items()})


SHELL = """
```sh
. .venv/bin/activate && retrain run --store s3://bucket/prefix --mirror URL --min-accuracy 0.97  # `make run`, isn't it
retrain up | status | down; .venv/bin/retrain history 2>&1 | head -3 > out.txt
retrain verify [V]       # or --version V
retrain rollback [--to V] --reason "it's worse"; retrain cache [clear] | fetch DIR | compare 1 2 --html FILE
RETRAIN_EPOCHS=3 retrain run --refresh [STEP ...] --seeds $(nproc) \\
    --device gpu
docker run --rm -v retrain:/data retrain:dev retrain doctor --race 16
kubectl -n retrain get pods
make run STORE=s3://models/prod ARGS="--min-accuracy 0.975 --seed 1"
make -j 2 bench-gpu SET=gpu TARGET || make TARGET
cat > x <<'EOF'
retrain nonsense '
EOF
python -c '
import sys'
```

```console
$ retrain run \\
    --epochs 3
retrain: it's stopped
make: *** no rule
```
"""
NAMES = """
`tasks/settings.py:12` `tests/operating/` `tasks/*.py` `tests/conftest.py::bucket` `.ci/run` `deployments/.env` `make`
`tasks.settings.Settings.epochs` `flows.cli.main:main` `tasks.registry.Registry.champion` `prefect.tasks.nothing`
`tests.operating.characteristics.MARKDOWN` `RETRAIN_MIN_ACCURACY` `RETRAIN_HOME` AWS_PROFILE `AWS_*` PREFECT_HOME
`AWS_ENDPOINT_URL_S3` `PREFECT_SERVER_*` `PREFECT_FLOWS_HEARTBEAT_FREQUENCY` `PREFECT_PASSWORD` `Makefile`

```python
from pathlib import Path
from tasks.registry import Registry
```
"""
OPERATING = "| candidates that pass | champion row |\n|---|---|\n"
TABLES = """
| option | default | |
|:--|---|-:|
| `--epochs`, `--batch-size`, `--store URL` | 5, 128, `./store` | `a \\| b` |
| `--mirror URL` | public mirrors | `--json` |
| `--json` | off | |
| accuracy | **0.970** (digits: 0.94) | |

| row | passes when | default |
|---|---|---|
| loss to reference | the same | 0.0029 |
| not shown to lose | ≥ `--max-regression` | 0.0029 |

| candidates that pass | champion row | all rows |
|---|---|---|
| true loss 0.003 | 0.694 ± 0.017 | 0.690 |
| half the images (0.0089) | 0.08 | 0.0360 |
"""
LINKS = """
# Say `retrain run`, *twice*: 2 × [two](README.md)!
## A
## A
[a](#say-retrain-run-twice-2--two) [b](#a-1) [c](#own) [d](page.md#a) [e](tasks/) [f](/Makefile#L1) [g][h]
<a id="own"></a> [i](https://example.org/x#y) <img src=".github/run.png"> [j](deployments/) [k](Makefile "title")

[h]: deployments/README.md
"""
FENCES = """
````md
```sh
| a |
```
````
~~~
| a |
|---|
~~~~
> ```
> quoted
> ```
- ```json
  {}
  ```
"""


@pytest.mark.parametrize(
    "text", [SHELL, NAMES, TABLES, LINKS, FENCES], ids=["shell", "names", "tables", "links", "fences"]
)
def test_what_is_right_is_not_found(text: str) -> None:
    assert found_in(text) == []


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        # Links.
        ("a\n[b](c.md)", 2, "the link c.md leads to nothing"),
        ("![b](.github/none.png)", 1, "leads to nothing"),
        ("`a\nb`\n\n[c][d]", 4, "the link [d] leads to nothing"),
        ('<img src="none.png">', 1, "leads to nothing"),
        ("[a](makefile)", 1, "leads to nothing"),
        ("[a](deployments/.env)", 1, "leads to nothing"),
        ("[a](../x.md)", 1, "leaves the repository"),
        ("# A\n[a](#b)", 2, "names an anchor"),
        ("# A\n[a](#a-1)", 2, "names an anchor"),
        ("[a](README.md#b)", 1, "names an anchor"),
        ("[a](Makefile#L9999)", 1, "names an anchor"),
        # Fences and tables.
        ("\n```sh\nls\n", 2, "the fence is never closed"),
        ("````\n```", 1, "the fence is never closed"),
        ("```\n~~~", 1, "the fence is never closed"),
        ("~~~~\na\n~~~", 1, "the fence is never closed"),
        ("> ```\n> a\n\nb", 1, "the fence is never closed"),
        ("```sh\nls\n```sh\nls\n```", 3, "a fence within the one of line 1"),
        ("```sh\n| a |\n|---|\n```", 3, "a table within the fence of line 1"),
        ("| a | b |\n| c | d |", 1, "no table"),
        ("| a | b |\n|---|---|\n| c |", 3, "1 cells below a header of 2"),
        ("| a | b |\n|---|---|\n| `c | d` | e |", 3, "3 cells below a header of 2"),
        # Commands.
        ("```sh\n\nretrain runn\n```", 3, "there is no command 'runn'"),
        ("```sh\nretrain up | stats\n```", 2, "there is no command 'stats'"),
        ("```sh\nretrain run --min-acc 0.9\n```", 2, "there is no option --min-acc"),
        ("```sh\nretrain run \\\n  --store x \\\n  --to 3\n```", 2, "there is no option --to"),
        (
            "```sh\nretrain run --dataset cifar\n```",
            2,
            "it is no known data set (mnist, digits, ",
        ),
        ("```sh\nretrain run --min-accuracy 97\n```", 2, "min_accuracy: input should be less"),
        ("```sh\nretrain show\n```", 2, "the following arguments are required"),
        ("```sh\nretrain gc\n  retrain cache  # `retrain clear`\n```", 3, "there is no command 'clear'"),
        ("```sh\nretrain run  # or --stores\n```", 2, "no command has the option --stores"),
        ("```sh\ndocker run -v a:/b image .venv/bin/retrain doctor --rase 2\n```", 2, "--rase"),
        ("```console\n$ retrain run\nretrain runn\n$ retrain downn\n```", 4, "there is no command 'downn'"),
        ("```sh\nls 'a\n```", 2, "a quote is never closed"),
        ("```bash\nA=1 make tests\n```", 2, "no target tests"),
        ("a `make run STORES=x`", 1, "no variable STORES"),
        ("`make run ARGS='--epoch 3'`", 1, "there is no option --epoch"),
        ("a\n`retrain\nrolback`", 2, "there is no command 'rolback'"),
        ("`retrain pin V --to W`", 1, "there is no option --to"),
        ("`[--stores URL]`", 1, "no command has the option --stores"),
        ("| a |\n|---|\n| --stores |", 3, "no command has the option --stores"),
        # Variables.
        ("a\nRETRAIN_FORCE_PUBLISH=1", 2, "nothing reads the variable RETRAIN_FORCE_PUBLISH"),
        ("`AWS_REGION`", 1, "nothing reads the variable AWS_REGION"),
        ("```\nPREFECT_API_ULR\n```", 2, "nothing reads the variable PREFECT_API_ULR"),
        # Names.
        ("`tasks/setings.py`", 1, "there is no tasks/setings.py"),
        ("`see tests/none/`", 1, "there is no tests/none/"),
        ("```sh\ncp deployments/none.yaml x\n```", 2, "there is no deployments/none.yaml"),
        ("`requirements-tpu.lock`", 1, "there is no requirements-tpu.lock"),
        ("`tasks.setings`", 1, "nothing defines tasks.setings"),
        ("`tasks.settings.Settings.epoch`", 1, "nothing defines tasks.settings.Settings.epoch"),
        ("`flows.cli.main:mein`", 1, "nothing defines flows.cli.main:mein"),
        ("```python\n\nfrom tasks.registry import Registri\n```", 3, "nothing defines tasks.registry.Registri"),
        ("```python\na b\n```", 2, "no Python"),
        # Defaults and numbers.
        ("| | default |\n|---|---|\n| `--seed`, `--epochs` | 0, 6 |", 3, "the default of --epochs is 5, not 6"),
        ("| | default |\n|---|---|\n| `--seed`, `--epochs` | 0 |", 3, "2 options have 1 defaults"),
        ("| | default |\n|---|---|\n| `--json` | on |", 3, "the default of --json is off, not on"),
        ("| row | default |\n|---|---|\n| lowest class recall | 0.91 |", 3, "--min-class-recall is 0.9, not 0.91"),
        ("| | a | default |\n|---|---|---|\n| x | ≥ `--min-accuracy` | 0.98 |", 3, "--min-accuracy is 0.97, not 0.98"),
        (f"{OPERATING}| true loss 0.000 | 0.944 ± 0.015 |", 3, "computed is 0.9441 ± 0.0139, not 0.944 ± 0.015"),
        (f"{OPERATING}| true loss 0.000 | 0.943 ± 0.014 |", 3, "not 0.943 ± 0.014"),
        (f"{OPERATING}| true loss 0.007 | 0.5 |", 3, "computed is nothing"),
    ],
)
def test_a_planted_fault_is_found(text: str, line: int, words: str) -> None:
    found = found_in(text)
    assert len(found) == 1, found
    assert found[0].startswith(f"page.md:{line}: ")
    assert words in found[0]


def test_what_no_links_lead_to_is_found() -> None:
    islands = {"tests/a.md": "[b](b.md)", "tests/b.md": "[a](a.md)", "CHANGELOG.md": ""}
    assert found_in("", **islands) == [f"tests/{name}.md:1: no links lead here from README.md" for name in "ab"]
    assert found_in("[a](tests/a.md)", **islands) == []
    assert findings({"README.md": Page("README.md", "")}) == [
        "deployments/README.md:1: no links lead here from README.md"
    ]


def test_without_git_every_file_is_read_that_is_not_ignored(tmp_path: Path) -> None:
    for name in (".venv/a.md", "docs/b.md", "c.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / ".gitignore").write_text("/.venv/\n")
    assert project.files(tmp_path) == {".gitignore", "docs/b.md", "c.md"}
