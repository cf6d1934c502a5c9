"""What the benchmarks stand on: a host of their own, a lab with a configuration, and containers without a runtime."""

import ctypes
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
HOOKS = ["prestart", "poststart", "poststop"]
MS_BIND, MS_REC, MS_PRIVATE, MS_SHARED, MNT_DETACH = 1 << 12, 1 << 14, 1 << 18, 1 << 20, 2
LIBC = ctypes.CDLL(None, use_errno=True)


def say(text):
    print(text, file=sys.stderr, flush=True)


def run(*command, **options):
    done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, **options)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed: {done.stdout}")
    return done.stdout.strip()


def mount(source, target, kind=None, flags=0, data=None):
    words = [None if word is None else str(word).encode() for word in (source, target, kind, data)]
    if LIBC.mount(words[0], words[1], words[2], ctypes.c_ulong(flags), words[3]):
        raise OSError(ctypes.get_errno(), f"mount {target}")


def own_namespace():
    """From here on nothing that is mounted reaches the machine."""
    if os.environ.get("FS_ISOLATOR_BENCH") != "inside":
        os.environ["FS_ISOLATOR_BENCH"] = "inside"
        os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", *sys.argv])
    # crun refuses a host with both kinds of cgroups.
    LIBC.umount2(b"/sys/fs/cgroup/unified", MNT_DETACH)
    # As under systemd.
    mount(None, "/", flags=MS_REC | MS_SHARED)
    for at in ["/run/fs-isolator", "/run/containers", "/var/lib/containers"]:
        Path(at).mkdir(parents=True, exist_ok=True)
        mount("tmpfs", at, "tmpfs", data="mode=755")


TARGET = Path(os.environ.get("CARGO_TARGET_DIR", TOP / "target"))
# Where `cargo build --release --target x86_64-unknown-linux-musl` leaves its own.
MUSL = TARGET / f"{platform.machine()}-unknown-linux-musl/release"


def binaries():
    run("cargo", "build", "--release", "--quiet", cwd=TOP)
    built = (path.parent for path in TARGET.glob("*/release/fs-isolator"))
    return max((path for path in built if path != MUSL), key=lambda path: path.stat().st_mtime)


def install(built, at):
    """Copied, as an installation is: what a linker has just written is scattered in memory, and a third slower."""
    at.mkdir()
    for program in built.glob("fs-isolator*"):
        if not program.suffix:
            shutil.copy(program, at)


class Lab:
    def __init__(self):
        # Below root's own directories, since a sticky /tmp is not trusted.
        self.dir = Path(tempfile.mkdtemp(prefix="fs-isolator-bench.", dir="/var/lib"))
        self.dir.chmod(0o755)
        self.bin = self.dir / "installed"
        install(binaries(), self.bin)
        self.musl_bin = self.dir / "installed-musl"
        if (MUSL / "fs-isolator").exists():
            install(MUSL, self.musl_bin)
        self.config = self.dir / "config.json"
        self.config.write_text(json.dumps({
            "isolation": "filesystem/linux", "work_dir": f"{self.dir}/work", "runtime_dir": f"{self.dir}/run",
            "managers": {"local": [f"{self.dir}/bundles"], "podman": [f"{self.dir}/storage"]}}))
        self.config.chmod(0o644)
        for name in ["spawn", "floor", "empty"]:
            run("gcc", "-O2", "-static", "-o", self.dir / name, TOP / f"benches/{name}.c")
        self.musl = shutil.which("musl-gcc") is not None
        if self.musl:
            for name in ["floor", "empty"]:
                run("musl-gcc", "-O2", "-static", "-o", self.dir / f"{name}-musl", TOP / f"benches/{name}.c", "-idirafter",
                    "/usr/include", "-idirafter", f"/usr/include/{platform.machine()}-linux-gnu")
        (self.dir / "bare/records").mkdir(parents=True)
        self.numbers = iter(range(1 << 30))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        run("rm", "-rf", "--one-file-system", self.dir)

    def cli(self, *words):
        return run(self.bin / "fs-isolator", "--config", self.config, *words)

    def hook(self, stage, installed=None):
        return [(installed or self.bin) / f"fs-isolator-{stage}", "--config", self.config]

    def volume(self, name):
        path = self.dir / "work/volumes/roles/default" / name
        if not path.exists():
            self.cli("volume", "create", name)
        return path

    def records(self):
        at = self.dir / "run/records"
        return sorted(at.iterdir()) if at.exists() else []

    def bundle(self, name="b", points=()):
        """What a container is to the hooks: here a busybox with these mount points."""
        bundle = self.dir / "bundles" / name
        if not bundle.exists():
            (bundle / "rootfs").mkdir(parents=True)
            shutil.copy("/bin/busybox", bundle / "rootfs")
            (bundle / "config.json").write_text(json.dumps(
                {"root": {"path": "rootfs"}, "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}]}}))
        for point in points:
            (bundle / "rootfs" / point).mkdir(exist_ok=True)
        return bundle

    def spawn(self, *commands):
        """Runs them in turn, each with its state: microseconds, KiB and microseconds of the processor of each."""
        words = []
        for state, command in commands:
            words += ["--"] * bool(words) + [str(state), *map(str, command)]
        reader, writer = os.pipe()
        done = subprocess.Popen([self.dir / "spawn", str(writer), *words], stdin=subprocess.DEVNULL,
                                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, pass_fds=[writer])
        os.close(writer)
        with os.fdopen(reader) as file:
            text = file.read()
        error = done.stderr.read()
        if done.wait():
            raise SystemExit(f"spawn: {error}")
        return [tuple(map(float, line.split())) for line in text.splitlines()]


class Container:
    """A process in a mount namespace of its own, in which the rootfs is mounted."""

    SCRIPT = 'mount --bind "$0" "$0" && echo ready && exec chroot "$0" /busybox sleep 1000'

    def __init__(self, lab, bundle):
        self.lab, self.bundle = lab, bundle
        self.process = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "slave", "sh", "-c", self.SCRIPT, str(bundle / "rootfs")],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        self.process.stdout.readline()
        # Until chroot and busybox are there and wait, so that they do not take the processor from what is measured.
        command = Path(f"/proc/{self.process.pid}/cmdline")
        while b"sleep" not in command.read_bytes() or b"busybox" not in command.read_bytes().split(b"\0")[0]:
            time.sleep(0.001)
        time.sleep(0.003)

    def state(self, volumes, name="c", more=0):
        path = self.lab.dir / f"{name}.state"
        annotations = {"io.fs-isolator.volumes": volumes}
        if more:
            annotations["some.other/annotation"] = "x" * more
        path.write_text(json.dumps({"ociVersion": "1.0.2", "id": name, "bundle": str(self.bundle), "pid": self.process.pid,
                                    "status": "creating", "annotations": annotations}))
        return path

    def end(self):
        self.process.kill()
        self.process.wait()
        # The kernel takes its mounts apart in the background.
        time.sleep(0.01)


def median(values):
    return statistics.median(values)
