import subprocess
import sys

import jax
import pytest

from oass_jax.run import libraries


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """A function that says where compiled programs are kept, before anything is set None."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update(names[0], None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    yield lambda: jax.config.jax_compilation_cache_dir
    for name, value in before.items():
        jax.config.update(name, value)


def test_a_process_alone_keeps_what_it_compiles(cache, tmp_path):
    libraries.keep_compiled_programs()
    assert cache() == str(tmp_path / "oass_jax")


def test_one_of_several_keeps_nothing_unless_a_folder_is_named(cache):
    libraries.keep_compiled_programs(is_alone=False)
    assert cache() is None
    jax.config.update("jax_compilation_cache_dir", "/shared")
    libraries.keep_compiled_programs(is_alone=False)
    assert cache() == "/shared"


def test_a_gpu_that_cannot_be_used_is_reported():
    """In a process of its own, whose logging is changed: JAX warns as it falls back to the CPU."""
    program = (
        "from oass_jax.run import libraries; libraries.quieten(); import logging\n"
        "from jax._src import xla_bridge; xla_bridge.logger.warning('no GPU')\n"
        "logging.getLogger('jax._src.dispatch').warning('nothing')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "no GPU" in done.stderr
    assert "nothing" not in done.stderr
