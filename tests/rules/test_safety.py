"""Nothing in the code can run what a file or a question contains."""

import ast

import pytest

PICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
FOLDERS = ("prsmed/", "bundle/", "scripts/")


def unsafe_lines(tree: ast.Module) -> list[str]:
    """One line for each construct that runs, or can be made to run, code from data."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [f"{node.lineno}: import {a.name}" for a in node.names if a.name.split(".")[0] in PICKLERS]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PICKLERS:
            found.append(f"{node.lineno}: from {node.module} import ...")
        elif isinstance(node, ast.Call):
            found += [f"{node.lineno}: {complaint}" for complaint in _call_complaints(node)]
    return found


def _call_complaints(call: ast.Call) -> list[str]:
    name = ast.unparse(call.func)
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    complaints = []
    if name in ("eval", "exec", "compile"):
        complaints.append(f"{name}() runs text as code")
    if name == "torch.load" and given.get("weights_only") != "True":
        complaints.append("torch.load needs weights_only=True")
    if given.get("trust_remote_code", "False") != "False":
        complaints.append("trust_remote_code runs code from a checkpoint")
    if given.get("allow_pickle", "False") != "False":
        complaints.append("allow_pickle runs code from an array file")
    return complaints


def test_no_code_from_data(syntax_trees: dict[str, ast.Module]) -> None:
    found = [
        f"{path}:{line}"
        for path, tree in syntax_trees.items()
        if path.startswith(FOLDERS)
        for line in unsafe_lines(tree)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "eval('1')",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "AutoModel.from_pretrained(path, trust_remote_code=True)",
        "np.load(path, allow_pickle=True)",
    ],
)
def test_an_unsafe_line_is_found(source: str) -> None:
    assert len(unsafe_lines(ast.parse(source))) == 1


@pytest.mark.parametrize("source", ["model.eval()", "torch.load(path, weights_only=True)", "re.compile('a')"])
def test_a_safe_line_passes(source: str) -> None:
    assert not unsafe_lines(ast.parse(source))
