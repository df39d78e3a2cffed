"""The modules of the data room import each other in one direction."""

import subprocess
import sys

import grimp

from tests.helpers.runs import HOME


def test_no_circle_among_the_modules():
    graph = grimp.build_graph("vpjax", cache_dir=None)
    modules = graph.find_children("vpjax.data")
    assert {"vpjax.data.records", "vpjax.data.source", "vpjax.data.open"} <= modules
    imports = {m: graph.find_modules_directly_imported_by(m) & modules for m in modules}
    left = dict(imports)
    while free := [m for m, below in left.items() if not below & left.keys()]:
        for module in free:
            del left[module]
    assert not left, f"these import each other in a circle: {sorted(left)}"
    assert not any("vpjax.data" in graph.find_modules_directly_imported_by(m) for m in modules)
    # The data room knows nothing of configs, runs or commands.
    for module in modules:
        for name in graph.find_modules_directly_imported_by(module):
            assert name.startswith(("vpjax.data.", "vpjax.core.")), (module, name)


def test_formats_are_opened_in_one_module():
    graph = grimp.build_graph("vpjax", cache_dir=None)
    for module in ("folder", "digits", "vtab", "inat", "cars"):
        users = graph.find_modules_that_directly_import(f"vpjax.data.{module}")
        room = {u for u in users if u.startswith("vpjax.data.")}
        others = {"vpjax.data.benchmarks", "vpjax.data.convert_inat"}  # tables, not sources
        assert room - others <= {"vpjax.data.open", "vpjax.data.own"}, module


def test_the_bundled_digits_need_no_other_library():
    code = (
        "import sys; from vpjax.data import open_source; source = open_source('digits/low', 'test')"
        "; source.check(5); source[0]; print('\\n'.join(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=HOME)
    assert done.returncode == 0, done.stderr
    slow = {"tensorflow_datasets", "tensorflow", "sklearn", "scipy", "requests", "ml_collections"}
    assert not slow & set(done.stdout.split())
