"""The Python driver of Cassandra, for benches to measure beside."""
import os, subprocess, sys

FOLDER = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), ".build", "bench-python")


def python_with_driver():
    """A Python that has it; installed when first asked for."""
    python = os.path.join(FOLDER, "bin", "python")
    if not os.path.exists(python):
        subprocess.run([sys.executable, "-m", "venv", FOLDER], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "cassandra-driver==3.30.1"], check=True)
    return python
