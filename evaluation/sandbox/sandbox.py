"""The sandbox: started once per worker by runner.py, it runs one untrusted program after
another. Standard library only.

    python -I -S sandbox.py LEVEL UNSAFE BASE

Jobs come on standard input, results go to standard output, as messages of receive and send.

The levels, best first; runner.py takes the first that this machine allows:

namespaces   Own user (root: an unprivileged uid; others: a user namespace), mount, PID, network
             and IPC namespaces. The program sees a root made of the interpreter and the system's
             libraries, all read-only, and an empty /tmp in memory that ends with it. It sees no
             other process, and when its first process is killed the kernel kills the rest.
landlock     No namespaces (a container, say): Landlock forbids every file outside the
             interpreter, the libraries and the temporary folder, and, where the kernel knows how,
             TCP and signals to outsiders. Other sockets stay open. Left-over processes are found
             as orphans of the supervising process and killed.
plain        Neither (old kernels, macOS): the user's own rights are the only bound on files and
             network. Root still drops to an unprivileged uid. Run it in a container then.

At every level: a fresh interpreter, an own session and process group, an empty temporary folder, a
minimal environment, no standard input, capped output, limits on CPU time, memory of a process, file
size, size of the folder (outside of namespaces it is looked at ten times a second), processes and
open files, and a wall-clock limit that kills everything. System V IPC and memory files, which the
limits do not count, are refused by seccomp (x86-64 and ARM64). Memory is
limited for each process, not for all of a program: PROCESSES times MEMORY is the bound of those.
docs/evaluation.md has the limits of each level.
"""

from __future__ import annotations

import ctypes
import marshal
import os
import resource
import select
import signal
import stat
import struct
import sys
import tempfile
import time

TYPE_CHECKING = False  # typing's own would take the time to import it
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import IO, Any

LIBC = ctypes.CDLL(None, use_errno=True)
# linux/sched.h
NEWNS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
# linux/mount.h
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
# linux/prctl.h
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 22, 36, 38
MNT_DETACH = 2
MEGABYTE = 1 << 20
# limits of one program
MEMORY = 512 * MEGABYTE
FILE_SIZE = 4 * MEGABYTE
FOLDER_SIZE, FOLDER_ENTRIES = 16 * MEGABYTE, 1000
PROCESSES = 16
FILES = 64
OUTPUT_KEPT = 4000  # bytes of what it prints
STARTUP = 1.0  # seconds for the interpreter to start, beside the program's own limit


def receive(file: IO[bytes]) -> Any:
    """The next message (marshal's types) from a binary file, or None at its end."""
    head = file.read(4)
    return marshal.loads(file.read(struct.unpack("<I", head)[0])) if len(head) == 4 else None


def send(file: IO[bytes], message: Any) -> None:
    """Write a message that receive reads; flushed."""
    content = marshal.dumps(message, 4)
    file.write(struct.pack("<I", len(content)) + content)
    file.flush()


def sandbox_error(reason: str) -> dict[str, Any]:
    """The result of a program that could not be run."""
    return {
        "status": "sandbox error",
        "error": reason,
        "suspicious": "",
        "output": "",
        "seconds": 0.0,
        "cpu_seconds": 0.0,
    }


def call(name: str, *arguments: Any) -> None:
    """A C library function that returns -1 on failure; OSError then."""
    if getattr(LIBC, name)(*arguments) == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str = "") -> None:
    """mount(2). Raises OSError."""
    encode = lambda text: None if text is None else text.encode()
    call(
        "mount",
        encode(source),
        encode(target),
        encode(kind),
        ctypes.c_ulong(flags),
        encode(options),
    )


def interpreter() -> tuple[str, list[str]]:
    """(path of the real interpreter, not a virtual environment's link; folders it and its libraries
    live in).
    """
    path = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
    folders = {
        os.path.realpath(folder)
        for folder in (sys.base_prefix, sys.base_exec_prefix, os.path.dirname(path))
    }
    libraries = [
        folder
        for folder in os.environ.get("LD_LIBRARY_PATH", "").split(":")
        if os.path.isdir(folder)
    ]
    folders.update(os.path.abspath(folder) for folder in libraries)
    folders.update(map(os.path.realpath, libraries))
    if os.path.exists("/proc/self/maps"):
        with open("/proc/self/maps") as maps:
            files = {
                line.split(None, 5)[5].strip() for line in maps if len(line.split(None, 5)) == 6
            }
        folders.update(
            os.path.dirname(file) for file in files if file.startswith("/") and os.path.isfile(file)
        )
    folders.update(
        folder for folder in ("/usr", "/lib", "/lib32", "/lib64", "/bin") if os.path.isdir(folder)
    )
    folders.discard("/")
    return path, sorted(folders)  # parents before what lies in them


def map_user(uid: int, gid: int) -> None:
    """Inside the new user namespace we are 1000, so that exec drops the namespace's
    capabilities.
    """
    for file, text in (
        ("setgroups", "deny"),
        ("uid_map", f"1000 {uid} 1"),
        ("gid_map", f"1000 {gid} 1"),
    ):
        with open(f"/proc/self/{file}", "w") as handle:
            handle.write(text)


def enter_private_root(base: str, folders: list[str]) -> None:
    """Make `base` the root: `folders` read-only, four devices, an empty /tmp. Needs a mount
    namespace of our own.
    """
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    mount("tmpfs", base, "tmpfs", MS_NOSUID, "size=1m,mode=755")
    done: list[str] = []
    for folder in folders:
        if any(folder.startswith(parent + "/") for parent in done):
            continue
        os.makedirs(base + os.path.dirname(folder), exist_ok=True)
        if os.path.islink(folder):  # /lib -> usr/lib
            os.symlink(os.readlink(folder), base + folder)
        else:
            os.makedirs(base + folder, exist_ok=True)
            mount(folder, base + folder, None, MS_BIND | MS_REC)
            # noexec must stay where it was, or the kernel refuses
            kept = os.statvfs(folder).f_flag & 8
            mount(
                None,
                base + folder,
                None,
                MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | kept,
            )
            done.append(folder)
    for folder in ("/dev", "/etc", "/tmp", "/old"):
        os.makedirs(base + folder, exist_ok=True)
    for file in ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom", "/etc/ld.so.cache"):
        if os.path.exists(file):
            open(base + file, "w").close()
            mount(file, base + file, None, MS_BIND)
    call("pivot_root", base.encode(), (base + "/old").encode())
    os.chdir("/")
    call("umount2", b"/old", MNT_DETACH)
    os.rmdir("/old")
    mount(None, "/", None, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID)


def landlock_version() -> int:
    """Which Landlock the kernel has; below 1: none."""
    return LIBC.syscall(444, None, ctypes.c_size_t(0), 1) if sys.platform == "linux" else -1


def landlock(folders: list[str], writable: str) -> None:
    """Forbid this process every file but `folders` (read, execute) and `writable`; TCP and outside
    signals where the kernel can. Raises OSError where it has no Landlock or refuses.
    """
    version = landlock_version()
    if version < 1:
        raise OSError("this kernel has no Landlock")
    everything = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)) - 1
    read, write_file = 0b1101, 0b111  # execute + read file + read folder; execute + write + read
    fields = [everything, 3 if version >= 4 else 0, 3 if version >= 6 else 0][
        : {1: 1, 2: 1, 3: 1, 4: 2, 5: 2}.get(version, 3)
    ]
    attributes = struct.pack(f"={len(fields)}Q", *fields)
    ruleset = LIBC.syscall(444, attributes, ctypes.c_size_t(len(attributes)), 0)
    if ruleset < 0:
        raise OSError(ctypes.get_errno(), "landlock_create_ruleset")
    allowed = [(folder, read) for folder in folders] + [(writable, everything)]
    allowed += [(file, write_file) for file in ("/dev/null", "/dev/zero")] + [
        (file, 0b100) for file in ("/dev/random", "/dev/urandom")
    ]
    for path, access in allowed + [("/etc/ld.so.cache", 0b100)]:
        if os.path.exists(path):
            handle = os.open(path, os.O_PATH)
            rule = struct.pack("=Qi", access, handle)
            if LIBC.syscall(445, ruleset, 1, rule, 0) < 0:
                raise OSError(ctypes.get_errno(), f"landlock_add_rule for {path}")
            os.close(handle)
    if LIBC.syscall(446, ruleset, 0) < 0:
        raise OSError(ctypes.get_errno(), "landlock_restrict_self")
    os.close(ruleset)


# what linux/audit.h calls the machine; its numbers of
#   msgget, semget, shmget and memfd_create: memory in no process's limit, and System V's outlives
#   them all;
#   ptrace, process_vm_readv, process_vm_writev and pidfd_getfd: ways into another process
REFUSED_CALLS = {
    "x86_64": (0xC000003E, (68, 64, 29, 319, 101, 310, 311, 438)),
    "aarch64": (0xC00000B7, (186, 190, 194, 279, 117, 270, 271, 438)),
}


def refuse_calls() -> None:
    """Refuse (EPERM) this process and its children the calls of REFUSED_CALLS, by seccomp. Raises
    OSError where that is not possible.
    """
    if os.uname().machine not in REFUSED_CALLS:
        raise OSError(f"no list of system calls for {os.uname().machine}")
    architecture, numbers = REFUSED_CALLS[os.uname().machine]
    load, equal, at_least, end = 0x20, 0x15, 0x35, 0x06  # linux/bpf_common.h
    steps = len(numbers)
    filters = [
        (load, 0, 0, 4),  # the architecture of the call
        (equal, 0, steps + 3, architecture),  # another one (i386) has other numbers
        (load, 0, 0, 0),  # its number
        (at_least, steps + 1, 0, 0x40000000),  # x32 has these
        *((equal, steps - place, 0, number) for place, number in enumerate(numbers)),
        (end, 0, 0, 0x7FFF0000),  # allow
        (end, 0, 0, 0x00050001),  # EPERM
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in filters))
    program = struct.pack("@HP", len(filters), ctypes.addressof(code))
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    call("prctl", PR_SET_SECCOMP, 2, program, 0, 0)


def succeeds(function: Callable[..., object], *arguments: Any) -> bool:
    """Whether function(*arguments) raises nothing, tried in a child."""
    pid = os.fork()
    if not pid:
        try:
            function(*arguments)
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1] == 0


def unprivileged_uid() -> int | None:
    """An uid that nobody uses and that root may change to here, or None. Process limits count by
    uid, so each sandbox has its own.
    """

    def become(uid):
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)

    uids = (1_000_000_000 + os.getpid(), 60_000 + os.getpid() % 5000, 65534)
    return next((uid for uid in uids if succeeds(become, uid)), None)


class Sandbox:
    """What was found out about this machine, and how one job is run in it. Raises OSError where the
    machine does not allow the level.
    """

    def __init__(self, level: str, unsafe_as_root: bool, base: str) -> None:
        """level: one of the head's; unsafe_as_root: stay root where it could become nobody else;
        base: an empty folder of ours.
        """
        self.level, self.base, self.uid = level, base, None
        self.python, self.folders = interpreter()
        with open(
            os.path.join(os.path.dirname(os.path.abspath(__file__)), "judge.py"),
            encoding="utf-8",
        ) as file:
            self.judge = marshal.dumps(compile(file.read(), "judge.py", "exec", dont_inherit=True))
        user = "the user's own rights"
        root = os.getuid() == 0
        if root and not unsafe_as_root:
            self.uid = unprivileged_uid()
            user = f"root dropped to uid {self.uid}"
        if level == "namespaces":
            own_user = NEWUSER if self.uid is None and not (root and unsafe_as_root) else 0
            if own_user and root and open("/proc/self/uid_map").read().split()[1] == "0":
                raise OSError(
                    "root cannot change to another uid, and limits do not bind root in a user"
                    " namespace"
                )
            uid, gid = os.getuid(), os.getgid()
            call("unshare", own_user | NEWNS | NEWNET | NEWIPC)
            if own_user:
                map_user(uid, gid)
                user = "a user namespace"
            enter_private_root(base, self.folders)
        elif root and self.uid is None and not unsafe_as_root:
            raise OSError(
                "root can neither change to an unprivileged uid nor make a user namespace"
            )
        if root and unsafe_as_root:
            user = "ROOT, by --unsafe_as_root: process limits do not bind"
        version = landlock_version()
        self.refuses_calls = sys.platform == "linux" and succeeds(refuse_calls)
        # there is no /proc in the private root
        self.traceable = sys.platform == "linux" and not (
            self.refuses_calls and level == "namespaces"
        )
        self.isolation = {
            "level": level,
            "user": user,
            "files": {
                "namespaces": "private read-only root, /tmp in memory",
                "landlock": "Landlock: temporary folder only",
                "plain": "NOT isolated beyond the user's rights",
            }[level],
            "network": (
                "own network namespace (no network)"
                if level == "namespaces"
                else (
                    "Landlock: no TCP; other sockets are NOT isolated"
                    if level == "landlock" and version >= 4
                    else "NOT isolated"
                )
            ),
            "processes": (
                "own PID namespace"
                if level == "namespaces"
                else "process group and orphans killed; signals to outsiders "
                + (
                    "forbidden by Landlock"
                    if level == "landlock" and version >= 6
                    else "bound by the user only"
                )
            ),
            "limits": (
                f"{MEMORY // MEGABYTE} MiB memory a process, {FILE_SIZE // MEGABYTE} MiB a file,"
                f" {FOLDER_SIZE // MEGABYTE} MiB of files, {PROCESSES} processes, {FILES} open"
                " files;"
                f" System V shared memory {'forbidden' if self.refuses_calls else 'NOT limited'}"
            ),
        }

    def become_program(
        self, folder: str, job: int, verdict: int, output: int, timeout: float
    ) -> None:
        """In the child: shut every door, then become a fresh interpreter that runs judge.py.
        Never returns.
        """
        os.setsid()
        if self.level == "namespaces":
            mount(
                "tmpfs",
                "/tmp",
                "tmpfs",
                MS_NOSUID | MS_NODEV,
                f"size={FOLDER_SIZE},nr_inodes=1000,mode=1777",
            )
        elif self.uid is not None:
            os.chown(folder, self.uid, self.uid)
        for descriptor, place in ((job, 0), (output, 1), (output, 2), (verdict, 3)):
            os.dup2(descriptor, place)
        os.closerange(4, 1024)
        if self.uid is not None:
            os.setgroups([])
            os.setresgid(self.uid, self.uid, self.uid)
            os.setresuid(self.uid, self.uid, self.uid)
        os.chdir(folder)
        if sys.platform == "linux":
            call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if self.refuses_calls:
            refuse_calls()
        if self.level == "landlock":
            landlock(self.folders, folder)
        cpu = int(timeout) + 2
        for limit, soft in (
            ("CPU", cpu),
            ("AS", MEMORY),
            ("FSIZE", FILE_SIZE),
            ("NOFILE", FILES),
            ("CORE", 0),
            ("MSGQUEUE", 0),
            ("MEMLOCK", 0),
            ("NPROC", PROCESSES),
        ):
            if hasattr(resource, f"RLIMIT_{limit}"):
                try:
                    resource.setrlimit(getattr(resource, f"RLIMIT_{limit}"), (soft, soft))
                except ValueError:  # macOS does not take a limit on memory
                    if sys.platform == "linux":
                        raise
        environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": folder, "TMPDIR": folder}
        # an interpreter from an environment module may need it to start
        if "LD_LIBRARY_PATH" in os.environ:
            environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
        start = (
            f"import marshal, os; JOB = {len(self.judge)}; exec(marshal.loads(os.pread(0, JOB, 0)))"
        )
        os.execve(self.python, [self.python, "-I", "-S", "-B", "-c", start], environment)

    def supervise(
        self, program: str, test: str, entry_point: str, timeout: float
    ) -> dict[str, Any]:
        """Run one program to its verdict or its limit; when this returns, nothing of it is left.
        The result is runner.py's: status, error, suspicious, output, seconds, cpu_seconds.
        """
        secret = os.urandom(16).hex().encode()
        with (
            os.fdopen(os.memfd_create("job"), "w+b")
            if hasattr(os, "memfd_create")
            else tempfile.TemporaryFile()
        ) as job:
            job.write(self.judge)
            arguments = (secret, program, test, entry_point, timeout, self.traceable)
            job.write(marshal.dumps(arguments, 4))
            job.flush()
            verdict_read, verdict_write = os.pipe()
            output_read, output_write = os.pipe()
            folder = "/tmp"
            if self.level == "namespaces":
                call("unshare", NEWPID | NEWNS | NEWIPC)
            else:
                folder = tempfile.mkdtemp(dir=self.base)
                if sys.platform == "linux":
                    call("prctl", PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
            started = time.monotonic()
            pid = os.fork()
            if not pid:
                try:
                    self.become_program(folder, job.fileno(), verdict_write, output_write, timeout)
                except BaseException as error:
                    os.write(2, f"the sandbox cannot start a program: {error}".encode())
                finally:
                    os._exit(70)
            os.close(verdict_write)
            os.close(output_write)
        verdict, output = b"", b""
        deadline = started + timeout + STARTUP
        open_ends = [verdict_read, output_read]
        status = None
        usage = None
        full, looked = False, started
        while status is None and time.monotonic() < deadline:
            if self.level != "namespaces" and time.monotonic() > looked + 0.1:
                full, looked = is_too_full(folder), time.monotonic()
                if full:
                    break
            ready: list[int] = []
            if open_ends:
                ready = select.select(open_ends, [], [], 0.01)[0]
            else:
                time.sleep(0.01)
            for end in ready:
                content = os.read(end, 65536)
                if not content:
                    open_ends.remove(end)
                elif end == output_read:
                    output += content[: OUTPUT_KEPT - len(output)]
                else:
                    verdict += content[: 65536 - len(verdict)]
            if verdict_read in ready and verdict:
                break  # whatever follows does not count
            done, status, usage = os.wait4(pid, os.WNOHANG)
            status = status if done else None
        late = status is None and not verdict
        if status is None:
            self.kill(pid)
            _, status, usage = os.wait4(pid, 0)
        elif not verdict and select.select([verdict_read], [], [], 0)[0]:
            verdict = os.read(verdict_read, 65536)  # written just before it ended
        self.kill_orphans(pid)
        if self.level != "namespaces":
            remove_folder(folder)
        assert usage is not None  # wait4 gave it with the status
        result = {
            "status": "failed",
            "error": "",
            "suspicious": "",
            "output": output.decode("utf-8", "replace"),
            "seconds": time.monotonic() - started,
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
        }
        if verdict.startswith(secret):
            try:
                # the error's text is the program's: any string at all
                words = marshal.loads(verdict[len(secret) :])
                result["status"], result["error"], result["suspicious"] = (
                    word.encode("utf-8", "replace").decode() for word in words
                )
            except (ValueError, EOFError, TypeError):
                result["error"] = "its verdict is truncated"
        elif verdict:
            result.update(error="it wrote into the verdict's pipe", suspicious="forged verdict")
        elif full:
            result["error"] = (
                f"killed: more than {FOLDER_SIZE // MEGABYTE} MiB or {FOLDER_ENTRIES} files"
            )
        elif late:
            result.update(status="timed out", error=f"killed after {timeout + STARTUP:g} s")
        elif os.WIFSIGNALED(status):
            result["error"] = f"ended by signal {os.WTERMSIG(status)} without a verdict"
        else:
            result["error"] = (
                f"left with exit code {os.WEXITSTATUS(status)} before its test was over"
            )
        return result

    def kill(self, pid: int) -> None:
        """Kill a group, and its first process should it have left it."""
        for send_signal in (os.killpg, os.kill):
            try:
                send_signal(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass

    def kill_orphans(self, group: int) -> None:
        """Kill what is left: members of the group, and (as their reaper) everything that they left
        behind.
        """
        if self.level == "namespaces":
            return  # the kernel did when the namespace's first process ended
        self.kill(group)
        end_children()


def end_children() -> None:
    """Kill every child of this process, and what it becomes the parent of by that."""
    for _ in range(2000):  # a fork bomb under its process limit dies out in a few rounds
        for pid in children():
            try:
                os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.002)


def children() -> list[int]:
    """Process ids whose parent is this process (Linux)."""
    found = []
    for name in os.listdir("/proc") if os.path.isdir("/proc") else []:
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
                if int(fields[1]) == os.getpid():
                    found.append(int(name))
            except (OSError, IndexError, ValueError):
                pass
    return found


def is_too_full(folder: str) -> bool:
    """Whether a folder holds more than FOLDER_SIZE bytes or FOLDER_ENTRIES names, or cannot be
    read. Looks at no more names than that.
    """
    size, entries, waiting = 0, 0, [folder]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as inside:
                for entry in inside:
                    size += entry.stat(follow_symlinks=False).st_blocks * 512
                    entries += 1
                    if size > FOLDER_SIZE or entries > FOLDER_ENTRIES:
                        return True
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
        except FileNotFoundError:  # removed meanwhile
            pass
        except OSError:  # without rights, or too deep: files could hide there
            return True
    return False


def remove_folder(folder: str) -> None:
    """Remove a program's folder, however deep it is and whatever rights it lacks; what cannot be
    removed stays, and nothing is raised.

    By descriptor and without recursion: folders inside a sub-folder are moved up before it is
    removed, so no path grows and two descriptors are enough.
    """

    def listed(descriptor):
        """(name, whether it is a folder) of what lies in a folder; folders get the rights that
        moving and emptying them takes.
        """
        for name in os.listdir(descriptor):
            is_folder = stat.S_ISDIR(
                os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode
            )
            if is_folder:
                os.chmod(name, 0o700, dir_fd=descriptor)
            yield name, is_folder

    try:
        top = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        moved, mark = 0, os.urandom(8).hex()
        while names := list(listed(top)):
            for name, is_folder in names:
                if not is_folder:
                    os.unlink(name, dir_fd=top)
                    continue
                inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=top)
                try:
                    for inside, inside_is_folder in listed(inner):
                        if inside_is_folder:
                            moved += 1
                            os.rename(inside, f"{mark}-{moved}", src_dir_fd=inner, dst_dir_fd=top)
                        else:
                            os.unlink(inside, dir_fd=inner)
                finally:
                    os.close(inner)
                os.rmdir(name, dir_fd=top)
        os.rmdir(folder)
    except OSError:  # not ours, or busy: no verdict is lost for it
        pass
    finally:
        os.close(top)


def main() -> None:
    """Run the jobs of standard input until it ends."""
    level, unsafe_as_root, base = sys.argv[1], sys.argv[2] == "1", sys.argv[3]
    jobs, results = sys.stdin.buffer, sys.stdout.buffer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the scorer's to handle
    if os.path.exists("/proc/self/oom_score_adj"):  # where memory runs out, programs go first
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    try:
        sandbox = Sandbox(level, unsafe_as_root, base)
    except OSError as error:
        send(results, {"refused": str(error)})
        return
    send(results, sandbox.isolation)
    if level != "namespaces" and sys.platform == "linux":
        call("prctl", PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    while (job := receive(jobs)) is not None:
        supervisor = os.fork()  # a PID namespace needs a fresh one each time
        if not supervisor:
            try:
                send(results, sandbox.supervise(*job))
            except BaseException as error:
                send(results, sandbox_error(repr(error)))
            os._exit(0)
        if os.waitpid(supervisor, 0)[1]:
            if level != "namespaces":  # what the program started is ours now
                end_children()
                for name in os.listdir(base):
                    remove_folder(os.path.join(base, name))
            send(results, sandbox_error("the supervising process died"))
    if level != "namespaces":  # there runner.py removes it, because we no longer see it
        remove_folder(base)


if __name__ == "__main__":
    main()
