"""What a machine is booted from: kernels and a root file system, both out of the Debian archive, and the initramfs between them.

Everything is kept in one directory and made again only when the archive has something newer (looked at once a day) or the recipe
changed. Kernels are unpacked, never installed: installing one runs the hooks of boot loaders. The apt lists are a private copy, so
that neither the system's own sources nor its state matter; the archive's address is the one the system's sources name.
"""

import hashlib
import os
import re
import shutil
import subprocess
import time
import zlib
from pathlib import Path

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
# Programs that must be there, and the Debian package of each.
PROGRAMS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "busybox": "busybox-static",
    "cpio": "cpio",
    "depmod": "kmod",
    "lz4": "lz4",
    "mke2fs": "e2fsprogs",
    "mmdebstrap": "mmdebstrap",
    "xz": "xz-utils",
    "zstd": "zstd",
}
# What the guest needs: systemd and its user sessions, the battery's interpreter and programs, and git for its repositories.
PACKAGES = (
    "systemd,systemd-sysv,dbus,dbus-user-session,libpam-systemd,procps,kmod,python3,git,iproute2,libcap2-bin,util-linux,libgcc-s1"
)
# The kernel modules that are not loaded on demand early enough (disks) or that the guest could not load later (it has none on its
# own disk): overlay for copy-on-write homes, veth for the battery's network.
MODULES = ["virtio_pci", "virtio_blk", "overlay", "veth", "af_packet"]
# How old the archive's lists may be before they are fetched again, in seconds.
LISTS_SECONDS = 24 * 3600
ROOT_MIB = 1200


class Unavailable(Exception):
    """The machine cannot be made here, through no fault of the project: a reason to skip it."""


def call(arguments, **options):
    """Runs a program to its end; its output, or an error with the last lines of it."""
    done = subprocess.run(
        [str(argument) for argument in arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )
    if done.returncode != 0:
        last = "\n".join(done.stdout.strip().splitlines()[-8:])
        raise RuntimeError(f"{Path(str(arguments[0])).name} ended with {done.returncode}:\n{last}")
    return done.stdout


def install_programs():
    """Installs what is missing of the programs used here. Needs root only when something is missing."""
    missing = sorted(package for program, package in PROGRAMS.items() if not shutil.which(program, path=PATH))
    if not missing:
        return
    if not shutil.which("apt-get"):
        raise Unavailable(f"missing and not installable without apt: {' '.join(missing)}")
    if os.geteuid() != 0:
        raise Unavailable(f"missing: sudo apt-get install --no-install-recommends {' '.join(missing)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    apt = ["apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=300"]
    try:
        call([*apt, "update"], env=environment, timeout=300)
        call([*apt, "install", "--no-install-recommends", *missing], env=environment, timeout=600)
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"apt could not install {' '.join(missing)}: {error}") from error


# Debian keeps depmod and mke2fs where an ordinary user's PATH does not look.
PATH = os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/local/sbin:/usr/sbin:/sbin"


def archive_addresses():
    """The addresses of Debian's archive and of its security updates, out of this system's own apt sources."""
    text = []
    for file in [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]:
        if file.suffix in (".list", ".sources") and file.is_file():
            text.append(re.sub(r"^\s*#.*", "", file.read_text(), flags=re.M))
    addresses = re.findall(r"\S+://\S+", "\n".join(text))
    addresses = [address.rstrip("/") for address in addresses]
    archive = next((address for address in addresses if address.endswith("/debian")), None)
    security = next((address for address in addresses if address.endswith("/debian-security")), None)
    if archive is None or not Path(KEYRING).exists():
        raise Unavailable("no Debian archive among this system's apt sources, or no debian-archive-keyring")
    return archive, security


class Archive:
    """A private apt: the lists of a few suites, and nothing of the system's own."""

    def __init__(self, cache, name, suites):
        self.base = cache / "apt" / name
        self.sources = self.base / "sources.list"
        self.suites = suites

    def lines(self):
        """The sources, one a line."""
        archive, security = archive_addresses()
        lines = []
        for suite in self.suites:
            address = security if suite.endswith("-security") else archive
            if address:
                lines.append(f"deb [signed-by={KEYRING}] {address} {suite} main\n")
        return "".join(lines)

    def options(self):
        """What makes apt use this place alone."""
        values = {
            "Dir::Etc::SourceList": self.sources,
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::State": self.base,
            "Dir::State::Lists": self.base / "lists",
            "Dir::State::status": self.base / "status",
            "Dir::Cache": self.base,
            "APT::Sandbox::User": "",
            "APT::Architecture": "amd64",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
        }
        return [part for key, value in values.items() for part in ("-o", f"{key}={value}")]

    def update(self):
        """Fetches the lists, unless they are fresh."""
        stamp = self.base / "updated"
        lines = self.lines()
        fresh = stamp.exists() and time.time() - stamp.stat().st_mtime < LISTS_SECONDS
        if fresh and self.sources.exists() and self.sources.read_text() == lines:
            return
        for directory in ("lists/partial", "archives/partial"):
            (self.base / directory).mkdir(parents=True, exist_ok=True)
        self.sources.write_text(lines)
        (self.base / "status").touch()
        try:
            call(["apt-get", *self.options(), "-q", "-o", "APT::Update::Error-Mode=any", "update"], timeout=300)
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            raise Unavailable(f"apt cannot read {', '.join(self.suites)}: {error}") from error
        stamp.touch()

    def depends(self, package):
        """The real packages that one depends on, directly or not, itself included; empty when there is none of that name."""
        told = subprocess.run(
            ["apt-cache", *self.options(), "depends", "--recurse", "--important", package],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        return [line.strip() for line in told.stdout.splitlines() if line and not line[0].isspace() and line[0] != "<"]

    def download(self, packages, directory):
        """Fetches package files into a directory."""
        try:
            call(["apt-get", *self.options(), "-q", "download", *packages], cwd=directory, timeout=600)
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            raise Unavailable(f"apt cannot supply {' '.join(packages)}: {error}") from error


# What a kernel's name in the table of machines stands for: the suites it is looked for in, the package that depends on the newest
# one, and how its version begins.
KERNELS = {
    "6.1": (["bookworm", "bookworm-security"], "linux-image-cloud-amd64", "6.1."),
    "6.12": (["bookworm", "bookworm-security", "bookworm-backports"], "linux-image-6.12-cloud-amd64", "6.12."),
    "newest": (["trixie-backports"], "linux-image-cloud-amd64", ""),
}


class Kernel:
    """An unpacked kernel: an ELF file that QEMU enters directly (half a second sooner than through its own boot code), its initramfs
    and its release."""

    def __init__(self, directory):
        self.release = (directory / "release").read_text()
        self.image = directory / "vmlinux"
        self.initramfs = directory / "initramfs.cpio.gz"


def kernel(cache, name):
    """The newest kernel of a name, downloaded and unpacked if it is not there yet."""
    suites, package, prefix = KERNELS[name]
    archive = Archive(cache, name, suites)
    archive.update()
    named = re.compile(r"linux-(image|binary|modules)-(" + re.escape(prefix) + r"\d\S*-cloud-amd64)$")
    found = [match for match in map(named.match, archive.depends(package)) if match]
    if not found:
        raise Unavailable(f"the archive has no kernel {name} ({package} in {', '.join(suites)})")
    release = found[0][2]
    directory = cache / "kernels" / release
    recipe = digest(Path(__file__), Path(__file__).with_name("guest") / "init")
    if (directory / "recipe").exists() and (directory / "recipe").read_text() == recipe:
        return Kernel(directory)
    work = cache / "kernels" / f"{release}.{os.getpid()}"
    for left in (cache / "kernels").glob(f"{release}.*"):
        shutil.rmtree(left)
    (work / "tree").mkdir(parents=True)
    archive.download([match[0] for match in found], work)
    for file in sorted(work.glob("*.deb")):
        call(["dpkg-deb", "-x", file, work / "tree"])
        file.unlink()
    compressed = next(iter([*work.glob("tree/boot/vmlinuz-*"), *work.glob("tree/usr/lib/modules/*/vmlinuz")]), None)
    if compressed is None:
        raise RuntimeError(f"the packages of {release} hold no vmlinuz")
    (work / "vmlinux").write_bytes(decompressed(compressed.read_bytes()))
    pack_initramfs(work, release)
    shutil.rmtree(work / "tree")
    (work / "release").write_text(release)
    (work / "recipe").write_text(recipe)
    shutil.rmtree(directory, ignore_errors=True)
    work.rename(directory)
    return Kernel(directory)


def decompressed(image):
    """The ELF file inside a bzImage, which begins with the magic number of whatever packed it."""

    def through(program):
        # What follows the packed kernel is no part of it; the programs complain about it after they have done their work.
        return lambda data: subprocess.run(program, input=data, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout

    def gunzip(data):
        try:
            return zlib.decompressobj(31).decompress(data)
        except zlib.error:
            return b""

    packers = [
        (b"\x1f\x8b\x08", gunzip),
        (b"\xfd7zXZ\0", through(["xz", "-dcq"])),
        (b"\x28\xb5\x2f\xfd", through(["zstd", "-dcq"])),
        (b"\x02\x21\x4c\x18", through(["lz4", "-dcq"])),
    ]
    for magic, unpack in packers:
        at = image.find(magic)
        while at >= 0:
            kernel_elf = unpack(image[at:])
            if kernel_elf.startswith(b"\x7fELF"):
                return kernel_elf
            at = image.find(magic, at + 1)
    raise RuntimeError("the kernel is packed by something that is not known here (gzip, xz, zstd and lz4 are)")


def pack_initramfs(work, release):
    """Busybox, our init, and the modules that are needed before the root file system is there, in the order to load them."""
    tree = work / "initramfs"
    for directory in ("bin", "proc", "sys", "dev", "root", "modules"):
        (tree / directory).mkdir(parents=True)
    shutil.copy(shutil.which("busybox", path=PATH), tree / "bin/busybox")
    shutil.copy(Path(__file__).with_name("guest") / "init", tree / "init")
    (tree / "init").chmod(0o755)
    # depmod wants lib/modules; newer packages have it below usr.
    if not (work / "tree/lib").exists():
        (work / "tree/lib").symlink_to("usr/lib")
    modules = work / "tree/lib/modules" / release
    call(["depmod", "-b", work / "tree", release], env={**os.environ, "PATH": PATH})
    dependencies = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        path, _, needs = line.partition(":")
        dependencies[path] = needs.split()
    by_name = {re.sub(r"\.ko(\.\w+)?$", "", Path(path).name).replace("-", "_"): path for path in dependencies}
    order = []
    for name in MODULES:
        # A module that is not there is built in: the guest's own steps say so if it is not.
        if name in by_name:
            path = by_name[name]
            order += [needed for needed in [*reversed(dependencies[path]), path] if needed not in order]
    for number, path in enumerate(order):
        data = (modules / path).read_bytes()
        for suffix, program in ((".xz", "xz"), (".zst", "zstd"), (".gz", "gzip")):
            if path.endswith(suffix):
                data = subprocess.run([program, "-dc"], input=data, stdout=subprocess.PIPE, check=True).stdout
        (tree / "modules" / f"{number:02}.ko").write_bytes(data)
    call(["sh", "-c", "find . | cpio -o -H newc --quiet | gzip -1 > ../initramfs.cpio.gz"], cwd=tree)
    shutil.rmtree(tree)


def digest(*files):
    """What these files hold, as one short word."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def root(cache, suite):
    """The root file system every machine runs on, as an ext4 image. Machines write to a snapshot of it."""
    if os.geteuid() != 0:
        raise Unavailable("making the guest's root file system needs root")
    archive = Archive(cache, f"root-{suite}", [suite, f"{suite}-updates", f"{suite}-security"])
    recipe = digest(Path(__file__)) + " " + archive.lines()
    image, made_from = cache / f"root-{suite}.ext4", cache / f"root-{suite}.recipe"
    if image.exists() and made_from.exists() and made_from.read_text() == recipe:
        return image
    (cache / "root.list").write_text(archive.lines())
    work = cache / f"root.{os.getpid()}"
    shutil.rmtree(work, ignore_errors=True)
    options = ["--dpkgopt=force-unsafe-io", '--aptopt=Acquire::Languages "none"', "--aptopt=Acquire::Retries 3"]
    options += [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale", "info")]
    # The ordinary user of every machine, with a home that anyone may pass through.
    hook = '--customize-hook=chroot "$1" useradd --create-home --uid 1000 --shell /bin/bash u'
    try:
        call(
            ["mmdebstrap", "--variant=minbase", *options, f"--include={PACKAGES}", hook, suite, work, cache / "root.list"],
            timeout=900,
        )
        partial = image.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        call(["mke2fs", "-q", "-t", "ext4", "-d", work, "-F", partial, f"{ROOT_MIB}M"], env={**os.environ, "PATH": PATH})
        partial.rename(image)
        made_from.write_text(recipe)
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"no root file system of {suite}: {error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return image
