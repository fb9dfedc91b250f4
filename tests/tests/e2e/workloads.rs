//! Real work under the default policy: what developers' tools do all day must go on as if there were no sandbox. And the list of what does
//! not, each with its reason and with what the tool says then.
//!
//! A workload whose programs are not on the machine did not run, and says so.

use std::ffi::OsString;
use std::fmt::Write;
use std::path::Path;

use fumehood_tests::{Ended, House, not_run};

use super::for_both;

/// Something that must work.
struct Workload {
    name: &'static str,
    /// Programs without which it cannot be tried.
    needs: &'static [&'static str],
    /// A script for `sh -e` in a workspace directory of its own.
    script: &'static str,
}

/// Something that does not work, on purpose.
struct Refused {
    name: &'static str,
    needs: &'static [&'static str],
    script: &'static str,
    /// Why it is not given.
    reason: &'static str,
    /// What is to be read in its output, so that whoever reads it does not look in the wrong place; any of these.
    says: &'static [&'static str],
}

const WORKLOADS: &[Workload] = &[
    Workload {
        name: "shell",
        needs: &[],
        script: "printf 'b\\na\\n' | sort | tee sorted | wc -l >/dev/null; test \"$(head -1 sorted)\" = a; mkdir -p a/b; \
                 cp -R a c; mv c d; ln -s d link; ln sorted hard; chmod 600 hard; touch -t 202001010000 hard; rm -rf a d link; \
                 mkfifo pipe; echo x > pipe & cat pipe; wait; echo y > /dev/stderr; test -w sorted; test -w .; \
                 cd /tmp; mktemp; id -un; getent hosts localhost; nice -n 5 true; timeout 5 true",
    },
    Workload {
        name: "files of every kind",
        needs: &["python3"],
        script: r#"python3 - <<'PY'
import os, socket, tempfile, mmap, fcntl, shutil, pathlib
p = pathlib.Path('f'); p.write_text('x' * 5000)
with p.open('r+b') as f:
    fcntl.flock(f, fcntl.LOCK_EX); m = mmap.mmap(f.fileno(), 0); m[0:1] = b'y'; m.flush(); f.truncate(10)
assert p.read_text() == 'y' + 'x' * 9
os.truncate('f', 3); os.utime('f', (1, 2)); os.chmod('f', 0o640); os.chown('f', -1, -1)
os.rename('f', 'g'); os.link('g', 'h'); os.symlink('g', 's'); os.replace('h', 's')
os.setxattr('g', 'user.k', b'v'); assert os.getxattr('g', 'user.k') == b'v'; os.removexattr('g', 'user.k')
s = socket.socket(socket.AF_UNIX); s.bind('sock'); s.listen(); c = socket.socket(socket.AF_UNIX); c.connect('sock')
d = os.open('.', os.O_RDONLY); os.mkdir('sub', dir_fd=d); fd = os.open('n', os.O_CREAT | os.O_WRONLY, dir_fd=d); os.close(fd)
with tempfile.NamedTemporaryFile(dir='.') as t: t.write(b'z')
fd = os.open('.', os.O_TMPFILE | os.O_RDWR, 0o600); os.write(fd, b'w'); os.link(f'/proc/self/fd/{fd}', 'named', follow_symlinks=True)
assert os.access('.', os.W_OK); shutil.copytree('sub', 'sub2'); shutil.rmtree('sub2'); os.unlink('sock')
PY"#,
    },
    Workload {
        name: "C and C++ with make and sanitizers",
        needs: &["cc", "make"],
        script: r#"cat > main.c <<'C'
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
static void *run(void *x) { return x; }
int main(void) { pthread_t t; pthread_create(&t, 0, run, 0); pthread_join(t, 0); char *p = malloc(3); free(p); puts("hello"); return 0; }
C
printf 'all: main\nmain: main.c\n\tcc -O1 -g -pthread -o $@ $<\nsan: main.c\n\tcc -g -pthread -fsanitize=address,undefined -o $@ $<\n' > Makefile
make -s -j2 main; ./main; make -s san; ./san; make -s -q main"#,
    },
    Workload {
        name: "debuggers and tracers",
        needs: &["cc", "gdb", "strace"],
        script: "echo 'int main(void) { return 3; }' > m.c; cc -g -o m m.c; gdb -batch -ex run -ex quit ./m | grep 'exited with code 03'; \
                 strace -f -o trace ./m || test $? = 3; grep -q exit_group trace",
    },
    Workload {
        name: "Python: processes, threads, shared memory, loopback",
        needs: &["python3"],
        script: r#"cat > work.py <<'PY'
import asyncio, concurrent.futures, http.server, multiprocessing, multiprocessing.shared_memory, socket, sqlite3, subprocess, threading, urllib.request
def square(x): return x * x
if __name__ == '__main__':
    with multiprocessing.Pool(4) as pool: assert pool.map(square, range(5)) == [0, 1, 4, 9, 16]
    with concurrent.futures.ProcessPoolExecutor(2) as ex: assert list(ex.map(square, [3])) == [9]
    shm = multiprocessing.shared_memory.SharedMemory(create=True, size=4096); shm.close(); shm.unlink()
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    assert opener.open(f'http://127.0.0.1:{server.server_port}/').status == 200
    six = socket.socket(socket.AF_INET6); six.bind(('::1', 0)); six.listen()
    db = sqlite3.connect('d.sqlite'); db.execute('pragma journal_mode=wal'); db.execute('create table t(x)'); db.commit()
    async def main():
        p = await asyncio.create_subprocess_exec('true'); assert await p.wait() == 0
    asyncio.run(main())
    assert subprocess.run(['sh', '-c', 'exit 7']).returncode == 7
PY
python3 work.py; python3 -m venv --without-pip v; ./v/bin/python -c 'import sys; assert sys.prefix != sys.base_prefix'"#,
    },
    Workload {
        name: "pytest",
        needs: &["pytest"],
        script: "printf 'def test_a(tmp_path):\\n    (tmp_path / \"x\").write_text(\"y\")\\n    assert True\\n' > test_a.py; pytest -q",
    },
    Workload {
        name: "Node.js and npm",
        needs: &["node", "npm"],
        script: r#"mkdir dep; echo '{"name":"dep","version":"1.0.0"}' > dep/package.json; echo 'module.exports = 5' > dep/index.js
echo '{"name":"w","version":"1.0.0","scripts":{"test":"node test.js","postinstall":"node -e 1"},"dependencies":{"dep":"file:./dep"}}' > package.json
cat > test.js <<'JS'
const os = require('os'), http = require('http'), fs = require('fs'), { Worker } = require('worker_threads'), { execSync } = require('child_process');
if (require('dep') !== 5) throw 1;
os.userInfo(); os.networkInterfaces(); fs.mkdirSync('a/b', { recursive: true }); fs.rmSync('a', { recursive: true });
execSync('true'); new Worker('1', { eval: true });
const server = http.createServer((_, r) => r.end('x')).listen(0, '127.0.0.1', () =>
  http.get({ port: server.address().port, host: '127.0.0.1' }, r => { r.resume(); r.on('end', () => server.close()); }));
JS
npm install --silent; npm test --silent; test -L node_modules/dep"#,
    },
    Workload {
        name: "Rust with cargo, offline",
        needs: &["cargo", "cc"],
        script: "cargo new -q hello; cd hello; echo '#[test] fn t() { assert_eq!(1 + 1, 2) }' >> src/main.rs; cargo build -q; \
                 cargo test -q >/dev/null; cargo run -q; cargo clean -q; test ! -e target/debug",
    },
    Workload {
        name: "Go",
        needs: &["go"],
        script: "printf 'module m\\ngo 1.18\\n' > go.mod; printf 'package m\\nimport \"testing\"\\nfunc TestA(t *testing.T) {}\\n' > a_test.go; \
                 go vet ./...; go test ./...",
    },
    Workload {
        name: "Java",
        needs: &["java", "javac"],
        script: "printf 'class M { public static void main(String[] a) throws Exception { var t = new Thread(() -> System.out.println(System.getProperty(\"user.name\"))); t.start(); t.join(); } }' > M.java; \
                 javac M.java; java M",
    },
    Workload {
        name: "git, from init to worktree",
        needs: &["git"],
        script: r#"git init -q .; git config user.email a@b; git config user.name n; echo a > f; git add f; git commit -qm a
git init -q --bare remote.git; git remote add origin ./remote.git; b=$(git symbolic-ref --short HEAD); git push -q -u origin "$b"
git switch -q -c topic --track "origin/$b"; echo b >> f; git commit -qam b; git switch -q "$b"; git merge -q topic; git push -q; git branch -d topic
git worktree add -q wt; (cd wt; echo w > w; git add w; git commit -qm w); git worktree remove wt; git merge -q wt; git push -q; git branch -d wt
git stash list; echo c >> f; git stash -q; git stash pop -q; git commit -qam c; git rebase -q HEAD~1; git commit -q --amend -m d
git tag v1; git notes add -m n; git gc -q; git fsck --no-dangling; git bisect start; git bisect reset; git fetch -q; git pull -q
git clone -q remote.git copy; git sparse-checkout set src; git sparse-checkout disable; git submodule status; git revert --no-edit HEAD >/dev/null
git format-patch -q -1; git reset -q --hard HEAD~1; git am -q 0001-*.patch; git cherry-pick --quit; git archive HEAD | tar t; git clean -fdq -e remote.git
git remote set-head origin -a; git branch --unset-upstream; git config --unset user.name; rm -rf copy"#,
    },
    Workload {
        name: "terminals",
        needs: &["tmux", "script"],
        script: "script -qec 'tty && stty size' /dev/null; export TERM=xterm; tmux -L x new-session -d 'sleep 5'; tmux -L x ls; tmux -L x kill-server",
    },
    Workload {
        name: "archives and checksums",
        needs: &["tar", "gzip"],
        script: "mkdir -p t/u; echo x > t/u/f; chmod 750 t/u; touch -d @5 t/u/f; tar czf t.tgz t; rm -r t; tar xzf t.tgz; \
                 test \"$(stat -c '%a %Y' t/u t/u/f | tr '\\n' ' ')\" != ''; test \"$(stat -c %Y t/u/f)\" = 5; sha256sum t/u/f",
    },
];

const REFUSED: &[Refused] = &[
    Refused {
        name: "Docker",
        needs: &["docker"],
        script: "docker ps",
        reason: "the socket of the Docker daemon is root on the machine",
        says: &[
            "Cannot connect",
            "ermission denied",
            "no such file",
            "failed to connect",
        ],
    },
    Refused {
        name: "namespaces of one's own (Chromium's sandbox, `unshare -r`)",
        needs: &["unshare"],
        script: "unshare -r true",
        reason: "a nested user namespace hands out capabilities over kernel code that expects an administrator",
        says: &["Operation not permitted"],
    },
    Refused {
        name: "mounting",
        needs: &["mount"],
        script: "mkdir m; mount -t tmpfs none m",
        reason: "the view of the file tree is the policy's",
        says: &[
            "must be superuser",
            "ermission denied",
            "only root",
            "Operation not permitted",
        ],
    },
    Refused {
        name: "the internet",
        needs: &["curl"],
        script: "curl -sS --max-time 5 https://example.com",
        reason: "the policy gives no network",
        says: &["403"],
    },
    Refused {
        name: "hooks of the repository",
        needs: &["git"],
        script: "git init -q .; echo '#!/bin/sh' > .git/hooks/pre-commit",
        reason: "they would run outside",
        says: &["Operation not permitted"],
    },
    Refused {
        name: "editors' settings",
        needs: &[],
        script: "mkdir .vscode",
        reason: "tasks in them would run outside",
        says: &["Operation not permitted"],
    },
    Refused {
        name: "writing beside the workspace",
        needs: &[],
        script: "echo x > /usr/local/x",
        reason: "the rest of the machine is read-only",
        says: &["Read-only file system", "Permission denied"],
    },
];

/// Whoever can read the home of who runs the tests works with its toolchains; an ordinary user beside it with the system's.
fn run(house: &House, name: &str, script: &str) -> Ended {
    let directory: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
    let directory = house.make_directory(&format!("workspace/{directory}"), 0o755);
    let mut cli = house.run_with(
        &["--workspace", &directory.display().to_string()],
        &["sh", "-ec", script],
    );
    if house.uid() == nix::unistd::geteuid().as_raw() {
        for variable in ["HOME", "PATH", "RUSTUP_HOME", "CARGO_HOME", "RUSTUP_TOOLCHAIN"] {
            if let Some(value) = std::env::var_os(variable) {
                cli = cli.env(variable, value);
            }
        }
    }
    cli.current_dir(&directory).finish()
}

/// Whether a program is there for whoever the house is.
fn there(house: &House, program: &str) -> bool {
    let path = match house.uid() == nix::unistd::geteuid().as_raw() {
        true => std::env::var_os("PATH").unwrap_or_default(),
        false => OsString::from("/usr/local/bin:/usr/bin:/bin"),
    };
    std::env::split_paths(&path).any(|directory| Path::new(&directory).join(program).exists())
}

#[test]
fn real_work_goes_on() {
    for_both(|house| {
        let mut broken = String::new();
        for Workload { name, needs, script } in WORKLOADS {
            if let Some(missing) = needs.iter().find(|program| !there(house, program)) {
                not_run(name, &format!("{missing} is not on this machine"));
                continue;
            }
            let ended = run(house, name, script);
            if ended.code() != 0 {
                let _ = writeln!(broken, "== {name}: {}\n{}{}", ended.code(), ended.out(), ended.err());
            }
        }
        assert!(broken.is_empty(), "{broken}");
    });
}

#[test]
fn what_does_not_work_says_so() {
    for_both(|house| {
        let mut wrong = String::new();
        for Refused {
            name,
            needs,
            script,
            reason,
            says,
        } in REFUSED
        {
            if let Some(missing) = needs.iter().find(|program| !there(house, program)) {
                not_run(name, &format!("{missing} is not on this machine"));
                continue;
            }
            let ended = run(house, name, script);
            let said = format!("{}{}", ended.out(), ended.err());
            if ended.code() == 0 || !says.iter().any(|text| said.contains(text)) {
                let _ = writeln!(wrong, "== {name} ({reason}): {}\n{said}", ended.code());
            }
        }
        assert!(wrong.is_empty(), "{wrong}");
    });
}
