//! Disks that cannot be written, and disks that are full.
//!
//! Each test makes a small file system of its own, in a mount namespace that only it sees and that
//! ends with it. Where the system refuses that, the test says `SKIPPED: mount` and passes.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use wire::raft::{self as pb, ErrorKind, ResultKind};
use wire::status::detail_of;

use super::writer::{SOON, all_live, ended, sentence};
use crate::cluster::{Cluster, PROCESSES, Process};

/// A tmpfs in a namespace of its own, reached through the process that lives there.
struct Mount {
    holder: Child,
    /// The holder ends when this is closed, also if the test is killed.
    _input: Option<ChildStdin>,
    at: PathBuf,
    as_user: bool,
}

impl Mount {
    /// `options` as `mount -o` has them. None: not allowed here.
    fn new(at: &Path, options: &str) -> Option<Mount> {
        let mount = [false, true]
            .into_iter()
            .find_map(|as_user| Mount::try_new(at, options, as_user));
        if mount.is_none() {
            println!("SKIPPED: mount");
        }
        mount
    }

    fn try_new(at: &Path, options: &str, as_user: bool) -> Option<Mount> {
        std::fs::create_dir_all(at).unwrap();
        let script = "mount -t tmpfs -o \"$1\" tmpfs \"$2\" && echo mounted && exec cat";
        let mut holder = Command::new("unshare")
            .args(if as_user {
                &["-r", "-m"] as &[&str]
            } else {
                &["-m"]
            })
            .args([
                "--propagation",
                "private",
                "sh",
                "-c",
                script,
                "sh",
                options,
            ])
            .arg(at)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let input = holder.stdin.take();
        let mut said = String::new();
        let read = BufReader::new(holder.stdout.take()?).read_line(&mut said);
        let mount = Mount {
            holder,
            _input: input,
            at: at.to_owned(),
            as_user,
        };
        (read.is_ok() && said == "mounted\n").then_some(mount)
    }

    /// The file system, as it is reached from outside of its namespace.
    fn path(&self) -> PathBuf {
        let inside = self.at.strip_prefix("/").unwrap();
        Path::new("/proc")
            .join(self.holder.id().to_string())
            .join("root")
            .join(inside)
    }

    fn data_dir(&self) -> String {
        self.path().display().to_string()
    }

    fn remount(&self, options: &str) {
        let pid = self.holder.id().to_string();
        let remounted = Command::new("nsenter")
            .args(["-t", &pid, "-m"])
            .args(if self.as_user {
                &["-U", "--preserve-credentials"] as &[&str]
            } else {
                &[]
            })
            .args(["mount", "-o", &format!("remount,{options}")])
            .arg(&self.at)
            .status();
        assert!(remounted.unwrap().success(), "remount,{options}");
    }

    /// Takes all of the room that is left.
    fn fill_up(&self) {
        let zeros = vec![0; 1 << 20];
        let mut ballast = std::fs::File::create(self.path().join("ballast")).unwrap();
        for length in [zeros.len(), 4096] {
            while std::io::Write::write_all(&mut ballast, &zeros[..length]).is_ok() {}
        }
    }

    fn make_room(&self) {
        std::fs::remove_file(self.path().join("ballast")).unwrap();
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// A cluster whose nodes with small disks are named, laid out and not started.
fn with_small_disks(nodes: usize, small: &[usize], options: &str) -> Option<(Vec<Mount>, Cluster)> {
    let mut cluster = Cluster::new(nodes);
    cluster.set(
        "LEEKY_FOUND_ALONE",
        if nodes == 1 { "true" } else { "false" },
    );
    cluster.set("LEEKY_SEGMENT_BYTES", &(1 << 20).to_string());
    let mut mounts = Vec::new();
    for number in small {
        let mount = Mount::new(&cluster.folder().join(format!("disk{number}")), options)?;
        cluster.set_for(*number, "LEEKY_DATA_DIR", &mount.data_dir());
        mounts.push(mount);
    }
    Some((mounts, cluster))
}

#[test]
fn a_read_only_data_directory_is_refused_in_one_sentence() {
    let Some((mounts, mut cluster)) = with_small_disks(1, &[1], "size=32m") else {
        return;
    };
    let [disk] = &mounts[..] else { unreachable!() };
    disk.remount("ro");
    is_refused(&cluster, disk);
    disk.remount("rw");
    cluster.start_all();
    cluster.wait_for_voters(1, SOON);
    cluster.put(1, "PUT kept safe").unwrap();
    cluster.kill_all();
    disk.remount("ro");
    is_refused(&cluster, disk);
    disk.remount("rw");
    cluster.start_all();
    cluster.wait_for_voters(1, SOON);
    assert_eq!(cluster.query(1, "GET kept", false).unwrap().data, "safe");
    drop(cluster);
}

fn is_refused(cluster: &Cluster, disk: &Mount) {
    for process in PROCESSES {
        let output = ended(&mut cluster.command(1, process));
        let sentence = sentence(&output);
        assert_eq!(output.status.code(), Some(1), "{process:?}: {sentence}");
        assert_eq!(sentence.lines().count(), 1, "{process:?}: {sentence}");
        assert_eq!(
            sentence.matches("Read-only file system").count(),
            1,
            "{process:?}: {sentence}"
        );
        assert!(
            sentence.contains(&disk.data_dir()),
            "{process:?}: {sentence}"
        );
        assert!(!sentence.contains("panicked"), "{process:?}: {sentence}");
    }
}

/// Bytes of a value with which a small disk fills up soon.
const VALUE_BYTES: usize = 100_000;

/// Writes of large values, each under a key of its own.
#[derive(Default)]
struct LargeWrites {
    acknowledged: Vec<usize>,
    tried: usize,
}

impl LargeWrites {
    fn put_one(&mut self, cluster: &Cluster, number: usize) -> Result<(), ErrorKind> {
        self.tried += 1;
        let entry = format!("PUT large{} {}", self.tried, value(self.tried));
        let reply = cluster.put(number, &entry).map_err(|status| {
            let detail = detail_of(&status);
            detail
                .unwrap_or_else(|| panic!("no typed error: {status:?}"))
                .kind()
        })?;
        assert_eq!(reply.kind(), ResultKind::Ok);
        self.acknowledged.push(self.tried);
        Ok(())
    }

    fn are_all_there(&self, cluster: &Cluster, number: usize) {
        for key in &self.acknowledged {
            let query = format!("GET large{key}");
            let read = cluster.eventually(&query, SOON, |cluster| {
                cluster.query(number, &query, false).ok()
            });
            assert!(
                read.data == value(*key),
                "{query} at node {number}: other bytes"
            );
        }
    }
}

fn value(key: usize) -> String {
    let mut value = format!("{key:08}").repeat(VALUE_BYTES / 8);
    value.truncate(VALUE_BYTES);
    value
}

#[test]
fn a_full_disk_refuses_writes_and_goes_on_when_there_is_room() {
    let Some((mounts, mut cluster)) = with_small_disks(1, &[1], "size=48m") else {
        return;
    };
    let [disk] = &mounts[..] else { unreachable!() };
    cluster.start_all();
    cluster.wait_for_voters(1, SOON);
    let pids = PROCESSES.map(|process| cluster.node(1).pid(process));
    let mut writes = LargeWrites::default();
    let refused = loop {
        assert!(writes.tried < 1000, "the disk does not fill up");
        if let Err(kind) = writes.put_one(&cluster, 1) {
            break kind;
        }
    };
    assert_eq!(refused, ErrorKind::LogFull, "after {} writes", writes.tried);
    let output = cluster.raft_client(&["PUT", "one", "more"]);
    assert_eq!(output.status.code(), Some(13));
    let told = sentence(&output);
    let reason = format!(
        "the disk of {}/raft is full but for the reserve of ",
        disk.data_dir()
    );
    assert!(
        told.starts_with("The log is full: ") && told.contains(&reason),
        "{told}"
    );
    assert!(told.ends_with("Nothing was written; make room on the disk, or raise MaxLogBytes"));
    // Reading needs no room.
    writes.are_all_there(&cluster, 1);

    // Others take even what was held back.
    disk.fill_up();
    for _ in 0..20 {
        let kind = writes.put_one(&cluster, 1).unwrap_err();
        assert_eq!(kind, ErrorKind::LogFull);
    }
    all_live(&mut cluster);
    disk.make_room();
    disk.remount("size=96m");
    cluster.eventually("it takes entries again", SOON, |cluster| {
        writes.put_one(cluster, 1).ok()
    });
    all_live(&mut cluster);
    assert_eq!(PROCESSES.map(|process| cluster.node(1).pid(process)), pids);
    writes.are_all_there(&cluster, 1);
    cluster.kill_all();
    cluster.start_all();
    cluster.wait_for_voters(1, SOON);
    writes.are_all_there(&cluster, 1);
    drop(cluster);
}

#[test]
fn a_disk_that_others_fill_up_during_writes_kills_nobody() {
    let Some((mounts, mut cluster)) = with_small_disks(3, &[1, 2, 3], "size=64m") else {
        return;
    };
    cluster.start_all();
    cluster.wait_for_voters(3, SOON);
    let mut writes = LargeWrites::default();
    for round in 0..3 {
        for _ in 0..20 {
            // Room that was just made may not have been seen yet.
            cluster.eventually("a write", SOON, |cluster| writes.put_one(cluster, 1).ok());
        }
        for disk in &mounts {
            disk.fill_up();
        }
        // What came in before may still be answered, or not.
        for _ in 0..20 {
            let _ = writes.put_one(&cluster, 1 + round);
        }
        // Who cannot store a vote cannot elect either: there may be no leader to say LOG_FULL.
        let kind = cluster.eventually("refusal", SOON, |cluster| writes.put_one(cluster, 1).err());
        println!("round {round}: {kind:?}");
        all_live(&mut cluster);
        for disk in &mounts {
            disk.make_room();
        }
    }
    cluster.eventually("it takes entries again", SOON, |cluster| {
        writes.put_one(cluster, 2).ok()
    });
    let index = cluster.put(1, "PUT the end").unwrap().index;
    cluster.wait_for_applied(&[1, 2, 3], index, SOON);
    all_live(&mut cluster);
    for number in cluster.numbers() {
        writes.are_all_there(&cluster, number);
    }
    drop(cluster);
}

#[test]
fn a_follower_with_a_full_disk_lags_and_catches_up() {
    let Some((mounts, mut cluster)) = with_small_disks(3, &[3], "size=32m") else {
        return;
    };
    let [disk] = &mounts[..] else { unreachable!() };
    cluster.start_all();
    cluster.wait_for_voters(3, SOON);
    // A leader would refuse the entries.
    cluster.eventually("another node leads", SOON, |cluster| {
        let status = cluster.status(3)?;
        if status.role != "leader" {
            return (!status.leader?.node_id.is_empty()).then_some(());
        }
        let request = pb::TransferLeadershipRequest::default();
        let _ = cluster.block_on(cluster.client(3).transfer_leadership(request));
        None
    });
    let leader = cluster.wait_for_leader(&[1, 2], None, SOON);
    let mut writes = LargeWrites::default();
    let mut index = 0;
    while writes.tried < 300 {
        writes.put_one(&cluster, leader).unwrap();
        index = cluster.status(leader).unwrap().commit_index;
    }
    let alarm = cluster.eventually("the follower says that its disk is full", SOON, |cluster| {
        cluster
            .status(3)?
            .alarms
            .into_iter()
            .find(|alarm| alarm.contains(&disk.data_dir()))
    });
    assert!(alarm.contains("full"), "{alarm}");
    let lagging = cluster.status(3).unwrap();
    assert!(lagging.commit_index < index, "it lags");
    assert_eq!(
        lagging.term,
        cluster.status(leader).unwrap().term,
        "and it follows"
    );
    all_live(&mut cluster);
    disk.remount("size=256m");
    cluster.wait_for_applied(&[1, 2, 3], index, Duration::from_secs(60));
    all_live(&mut cluster);
    writes.are_all_there(&cluster, 3);
    drop(cluster);
}

#[test]
fn a_log_at_its_limit_refuses_writes_until_the_limit_is_raised() {
    let mut cluster = Cluster::new(1);
    cluster.set("LEEKY_FOUND_ALONE", "true");
    cluster.set("LEEKY_SEGMENT_BYTES", &(1 << 20).to_string());
    cluster.set("LEEKY_MAX_LOG_BYTES", &(4 << 20).to_string());
    cluster.start_all();
    cluster.wait_for_voters(1, SOON);
    let mut writes = LargeWrites::default();
    let refused = loop {
        assert!(writes.tried < 100, "the log has no limit");
        if let Err(kind) = writes.put_one(&cluster, 1) {
            break kind;
        }
    };
    assert_eq!(refused, ErrorKind::LogFull);
    let output = cluster.raft_client(&["PUT", "one", "more"]);
    assert_eq!(output.status.code(), Some(13));
    assert!(sentence(&output).contains(&format!("MaxLogBytes is {}", 4 << 20)));
    writes.are_all_there(&cluster, 1);
    let ended = cluster.terminate(1, Process::Raft, SOON);
    assert_eq!(ended.code(), Some(0));
    cluster.set("LEEKY_MAX_LOG_BYTES", &(8 << 20).to_string());
    cluster.start_process(1, Process::Raft);
    cluster.wait_for_voters(1, SOON);
    for _ in 0..10 {
        writes.put_one(&cluster, 1).unwrap();
    }
    writes.are_all_there(&cluster, 1);
    all_live(&mut cluster);
}
