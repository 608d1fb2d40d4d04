"""Text is read and written as UTF-8, whatever the locale of the user."""

import ast

from tests.support import ROOT

FILES = sorted(
    path
    for folder in ("ctjax", "configs", "examples", "tests/chaos")
    for path in (ROOT / folder).rglob("*.py")
)
OF_TEXT = ("read_text", "write_text", "fdopen", "FileHandler")


def opens_text(call):
    """Says whether a call opens a file as text: `open` without "b", or a like."""
    if isinstance(call.func, ast.Attribute):
        return call.func.attr in OF_TEXT
    if not isinstance(call.func, ast.Name) or call.func.id != "open":
        return False
    modes = [*call.args[1:2], *(k.value for k in call.keywords if k.arg == "mode")]
    return not any(isinstance(m, ast.Constant) and "b" in m.value for m in modes)


def names_encoding(call):
    # **options may hold it, too; read_text takes it first.
    is_first = isinstance(call.func, ast.Attribute) and call.func.attr == "read_text"
    named = any(keyword.arg in ("encoding", None) for keyword in call.keywords)
    return named or (is_first and bool(call.args))


def calls_in(code):
    return [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]


def test_files_are_opened_with_their_encoding():
    wrong = [
        f"{path.relative_to(ROOT)}, line {call.lineno}: {ast.unparse(call)}"
        for path in FILES
        for call in calls_in(path.read_text(encoding="utf-8"))
        if opens_text(call) and not names_encoding(call)
    ]
    assert len(FILES) > 100 and not wrong


def test_what_names_none_is_seen():
    for code in ("open(x)", "open(x, 'w')", "open(x, mode='a')", "p.read_text()"):
        (call,) = calls_in(code)
        assert opens_text(call) and not names_encoding(call)
    for code in ("open(x, 'rb')", "os.open(x, 0)", "open(x, 'ab', buffering=0)"):
        assert not any(map(opens_text, calls_in(code)))
