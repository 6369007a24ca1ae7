"""Types that threads read are known to msgspec before the first thread reads them."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest


def test_what_threads_read_is_ready_at_import() -> None:
    """
    Values of the model that the ledger and the history read on threads of their own are looked at when those modules
    are imported: two threads that look at the same type at once would end the process.
    """
    script = """
        import ssis_exporter.historyfile, ssis_exporter.ledgerrows
        from ssis_exporter.model import ExecutionFacts, ExecutionKey, Nomination, Visibility
        known = [ExecutionFacts, ExecutionKey, Nomination, Visibility]
        print([kind.__name__ for kind in known if "__msgspec_cache__" not in vars(kind)])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60, check=True
    )

    assert "[]\n" == done.stdout


@pytest.mark.parametrize("attempt", range(3))
def test_many_threads_read_new_types_at_once(attempt: int) -> None:
    """
    Types made ready survive many threads that read them for the first time in the same moment.
    """
    script = """
        import sys, threading, types
        import msgspec
        from ssis_exporter.readiness import make_ready
        sys.setswitchinterval(1e-6)
        text = (
            "import dataclasses\\n"
            "@dataclasses.dataclass\\nclass Key:\\n    source: 'str'\\n    instance: 'str'\\n"
            "@dataclasses.dataclass\\nclass Asked:\\n    key: 'Key'\\n    name: 'str | None' = None\\n"
        )
        for number in range(300):
            module = sys.modules[f"made{number}"] = types.ModuleType(f"made{number}")
            exec(text, module.__dict__)
            make_ready(module.Asked)
            together = threading.Barrier(4)
            def read():
                together.wait()
                msgspec.convert({"key": {"source": "a", "instance": "b"}}, module.Asked)
            threads = [threading.Thread(target=read) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, timeout=60, check=False)

    assert 0 == done.returncode, attempt
