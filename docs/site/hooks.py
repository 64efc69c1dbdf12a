"""Pages of the site that are made from the code when it is built: keys, commands, the public face, tutorials."""

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

PROJECT = Path(__file__).resolve().parents[2]
QUOTES = "\"'"
STYLE = "assets/own.css"
CSS = """/* wide tables: keys in one piece, and room for what they do */
.md-grid { max-width: 76rem; }
.md-typeset table:not([class]) th { min-width: 0; }
.md-typeset table:not([class]) th, .md-typeset table:not([class]) td { padding: 0.6em 0.8em; }
.md-typeset table:not([class]) td:first-child code { white-space: nowrap; }
"""
CELL = str.maketrans({"|": r"\|", "\n": " ", "<": "&lt;"})


def on_files(files: Any, config: Any) -> Any:
    """Add the made pages to the site's files; mkdocs calls this."""
    from mkdocs.structure.files import File

    for name, make in pages().items():
        files.append(File.generated(config, name, content=make()))
    files.append(File.generated(config, STYLE, content=CSS))
    return files


def pages() -> dict[str, Callable[[], str]]:
    """Name every made page, and how it is made."""
    tutorials = sorted((PROJECT / "docs" / "tutorials").glob("*.py"))
    return {
        "reference/keys.md": key_page,
        "reference/commands.md": command_page,
        "reference/public.md": public_page,
        "project/changelog.md": changelog_page,
        "project/citation.md": citation_page,
        **{f"tutorials/{path.stem}.md": (lambda path=path: tutorial_page(path)) for path in tutorials},
    }


def key_page() -> str:
    """Make the reference of every configuration key, from the models that validate it."""
    from flowpairs.jobs.config import all_keys

    lines = [
        "# Configuration keys",
        "",
        "Made from the models that validate a configuration. `flowpairs config KEY` prints the same. A key with *with*",
        "belongs to one kind of its section alone. `stream` has the keys of `couple` and `train` below `couple.` and",
        "`train.`.",
    ]
    heading = None
    for command, key in all_keys():
        section = f"{command}: {key.name.partition('.')[0]}" if key.parts or "." in key.name else command
        if section != heading:
            heading = section
            lines += ["", f"## {section}", ""]
            if key.parts:
                lines += [key.effect, ""]
            lines += ["| key | what it does | type | default | unit | since |", "|---|---|---|---|---|---|"]
        if not key.parts:
            only = f"; with `{key.only}`" if key.only else ""
            default = "must be given" if key.default is None else f"`{key.default}`"
            cells = (f"`{key.name}`{only}", key.effect, key.type, default, key.unit, key.since)
            lines.append(f"| {' | '.join(cell.translate(CELL) for cell in cells)} |")
    return "\n".join(lines) + "\n"


def command_page() -> str:
    """Make the reference of every command, from its parser."""
    lines = ["# Commands", "", "Made from the parsers. `flowpairs NAME --help` prints the same.", ""]
    for name, command in commands().items():
        lines += [f"## {name}", "", *(command.help or "").replace("Example:", "\nExample:").splitlines(), ""]
        lines += ["| argument or option | what it is | default |", "|---|---|---|"]
        chosen = choices_of(name)
        for parameter in command.params:
            if parameter.name == "help":
                continue
            argument = parameter.param_type_name == "argument"
            names = (parameter.metavar or parameter.name.upper()) if argument else ", ".join(parameter.opts)
            choices = chosen.get(parameter.name, ())
            text = (parameter.help or "") + (f" ({', '.join(map(str, choices))})" if choices else "")
            default = "" if parameter.default in (None, False) or parameter.required else f"`{parameter.default}`"
            default = "must be given" if parameter.required else default
            lines.append(f"| `{names}` | {text.translate(CELL)} | {default} |")
        lines.append("")
    return "\n".join(lines)


def choices_of(name: str) -> dict[str, tuple[Any, ...]]:
    """List what a command's arguments and options may be, of those that are one of a few words."""
    hints = get_type_hints(getattr(import_module(f"flowpairs.jobs.{name}"), name))
    plain = {key: next((h for h in get_args(hint) if h is not type(None)), hint) for key, hint in hints.items()}
    words = {key: hints[key] if get_origin(hints[key]) is Literal else plain[key] for key in hints}
    return {key: get_args(hint) for key, hint in words.items() if get_origin(hint) is Literal}


def commands() -> dict[str, Any]:
    """Read the command line's commands by their names."""
    from typer.main import get_command

    from flowpairs.jobs.cli import application

    return get_command(application()).commands


def public_page() -> str:
    """Make the page of all that `import flowpairs` offers, from its definitions and docstrings."""
    import flowpairs

    lines = ["# Public face", "", "Made from the code. [Python](../python.md) shows all of it in use.", ""]
    for name in flowpairs.__all__:
        value = getattr(flowpairs, name)
        lines += [f"## {name}", "", *described(value, f"fp.{name}")]
        members = vars(value).items() if inspect.isclass(value) else ()
        for member, held in members:
            function = held.fget if isinstance(held, property) else getattr(held, "__func__", held)
            if not member.startswith("_") and inspect.isfunction(function):
                lines += [
                    f"### {name}.{member}",
                    "",
                    *described(function, member, is_property=isinstance(held, property)),
                ]
    return "\n".join(lines)


def described(value: Any, name: str, *, is_property: bool = False) -> list[str]:
    """Describe a class, a function or a property: how it is called, and its docstring as a page has it."""
    [node] = ast.parse(textwrap.dedent(inspect.getsource(value))).body
    doc = inspect.cleandoc(ast.get_docstring(node) or "")  # type: ignore[arg-type]
    if isinstance(node, ast.ClassDef):
        made = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"]
        call = f"{name}({arguments(made[0])})" if made else ""
    else:
        assert isinstance(node, ast.FunctionDef)
        returned = f" -> {ast.unparse(node.returns).strip(QUOTES)}" if node.returns else ""
        call = f"{name}{'' if is_property else f'({arguments(node)})'}{returned}"
    return [*(["```python", call, "```", ""] if call else []), *sections(doc), ""]


def arguments(node: ast.FunctionDef) -> str:
    """Write the arguments of a function as in its definition, without the object that a method is of."""
    return re.sub(r"^(self|cls)(, )?", "", ast.unparse(node.args))


def sections(doc: str) -> list[str]:
    """Turn a docstring's sections into headed lists."""
    lines, section = [], ""
    for line in doc.splitlines():
        if re.fullmatch(r"(Args|Attributes|Returns|Raises):", line):
            section = line[:-1]
            lines += ["", f"**{section}**", ""]
        elif not section:
            lines.append(line)  # with the indent of an example
        elif section != "Returns" and (found := re.match(r"    (\S[^:]*): (.*)", line)):
            lines.append(f"- `{found[1]}`: {found[2]}")
        else:
            lines.append(f"  {line.strip()}" if section != "Returns" and line else line.strip())
    return lines


def changelog_page() -> str:
    """Take the changelog, whose links lead into docs/."""
    return (PROJECT / "CHANGELOG.md").read_text().replace("](docs/", "](../")


def citation_page() -> str:
    """Show how to cite, from CITATION.cff."""
    cff = (PROJECT / "CITATION.cff").read_text()
    return f"# Citation\n\nFrom `CITATION.cff` in the repository:\n\n```yaml\n{cff}```\n"


def tutorial_page(path: Path) -> str:
    """Make a page of a tutorial: its head, its picture, what it printed, its code."""
    source = path.read_text()
    head = (ast.get_docstring(ast.parse(source)) or "").strip()
    title, _, rest = head.partition("\n")
    lines = [f"# {title.strip().rstrip('.')}", "", *unindented(rest), "", f"![]({picture(path)})", ""]
    printed = path.with_suffix(".txt")
    if printed.is_file():
        lines += ["It prints (seconds, and last digits, are of one machine):", "", "```text"]
        lines += [*printed.read_text().rstrip().splitlines(), "```", ""]
    return "\n".join([*lines, "The script:", "", "```python", source.rstrip(), "```", ""])


def unindented(text: str) -> Iterator[str]:
    """Yield lines, with those of a command as inline code."""
    for line in text.splitlines():
        yield f"`{line.strip()}`" if line.startswith("    ") else line


def picture(path: Path) -> str:
    """Name a tutorial's picture, relative to its page."""
    return f"../images/tutorials/{path.stem}.png"


if __name__ == "__main__":  # shows a made page: python docs/site/hooks.py reference/keys.md
    print(pages()[sys.argv[1]]())
