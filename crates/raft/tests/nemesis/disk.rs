//! A small disk for each node, which can be filled up, and which can be made to hang.
//!
//! With root it is a file with a file system of its own in it, in a mount namespace that only this run
//! sees: freezing that file system makes every write wait until it thaws, which is what a slow disk does.
//! Without root it is a file system in memory, which cannot be frozen; without even that there is none.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

/// Larger than log, snapshots and store of a run ever are together.
const DISK_MB: u32 = 192;

const LOOP: &str = "truncate -s \"$1\" \"$2.image\" && mkfs.ext4 -q -F -m 0 -O ^has_journal \"$2.image\" \
                    && mount -o loop \"$2.image\" \"$2\" && rm \"$2.image\" && rmdir \"$2/lost+found\" \
                    && echo mounted && exec cat";
const MEMORY: &str = "mount -t tmpfs -o size=\"$1\" tmpfs \"$2\" && echo mounted && exec cat";

/// See the module.
pub struct NodeDisk {
    holder: Child,
    /// The holder ends when this is closed, also if the run is killed.
    _input: Option<ChildStdin>,
    at: PathBuf,
    /// Whether it can hang.
    pub freezes: bool,
}

impl NodeDisk {
    /// Makes one. None: not allowed here.
    pub fn new(at: &Path) -> Option<NodeDisk> {
        std::fs::create_dir_all(at).ok()?;
        let ways = [(LOOP, false), (MEMORY, false), (MEMORY, true)];
        ways.into_iter()
            .find_map(|(script, as_user)| NodeDisk::try_new(at, script, as_user))
    }

    fn try_new(at: &Path, script: &str, as_user: bool) -> Option<NodeDisk> {
        let mut command = Command::new("unshare");
        if as_user {
            command.arg("-r");
        }
        let mut holder = command
            .args(["-m", "--propagation", "private", "sh", "-c", script, "sh"])
            .arg(format!("{DISK_MB}M"))
            .arg(at)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let input = holder.stdin.take();
        let mut said = String::new();
        let read = BufReader::new(holder.stdout.take()?).read_line(&mut said);
        let disk = NodeDisk {
            holder,
            _input: input,
            at: at.to_owned(),
            freezes: script == LOOP,
        };
        (read.is_ok() && said == "mounted\n").then_some(disk)
    }

    /// The file system, as it is reached from outside of its namespace.
    pub fn path(&self) -> PathBuf {
        let inside = self.at.strip_prefix("/").unwrap();
        let root = Path::new("/proc").join(self.holder.id().to_string());
        root.join("root").join(inside)
    }

    /// Forgets all that a node wrote.
    pub fn wipe(&self) {
        for entry in std::fs::read_dir(self.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                std::fs::remove_dir_all(path).unwrap();
            } else {
                std::fs::remove_file(path).unwrap();
            }
        }
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }

    /// Takes all the room that is left; whether the disk said that it is full.
    pub fn fill_up(&self) -> bool {
        let mut full = false;
        let mut ballast = File::create(self.ballast()).unwrap();
        let zeros = vec![1; 1 << 20];
        for length in [zeros.len(), 4096] {
            let error = loop {
                if let Err(error) = ballast.write_all(&zeros[..length]) {
                    break error;
                }
            };
            full = error.kind() == std::io::ErrorKind::StorageFull;
        }
        full
    }

    /// Ends that.
    pub fn make_room(&self) {
        let _ = std::fs::remove_file(self.ballast());
    }

    /// Begins to hang, for as long and with such a breath as is said, so often. It thaws by itself,
    /// whatever becomes of us.
    pub fn hang(&self, frozen: Duration, between: Duration, times: u32) -> Hang {
        let probe = File::create(self.path().join("probe")).unwrap();
        let script = "i=0; while [ $i -lt \"$1\" ]; do fsfreeze -f \"$4\"; sleep \"$2\"; fsfreeze -u \"$4\"; \
                      sleep \"$3\"; i=$((i + 1)); done";
        let freezer = Command::new("nsenter")
            .args(["-t", &self.holder.id().to_string(), "-m"])
            .args(["sh", "-c", script, "sh", &times.to_string()])
            .arg(frozen.as_secs_f64().to_string())
            .arg(between.as_secs_f64().to_string())
            .arg(&self.at)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let time = (frozen + between) * times;
        let prober = std::thread::spawn(move || {
            let until = Instant::now() + time;
            let mut longest = Duration::ZERO;
            while Instant::now() < until {
                let begun = Instant::now();
                let _ = probe
                    .write_all_at(b"probe", 0)
                    .and_then(|()| probe.sync_data());
                longest = longest.max(begun.elapsed());
                std::thread::sleep(Duration::from_millis(5));
            }
            longest
        });
        Hang { freezer, prober }
    }
}

/// A disk that hangs again and again.
pub struct Hang {
    freezer: Child,
    prober: std::thread::JoinHandle<Duration>,
}

impl Hang {
    /// Waits for the end of it. The longest that a write of ours had to wait.
    pub fn end(mut self) -> Duration {
        let longest = self.prober.join().unwrap();
        assert!(self.freezer.wait().unwrap().success(), "fsfreeze");
        longest
    }
}

impl Drop for NodeDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
