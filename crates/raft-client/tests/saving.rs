//! Saving snapshots from nodes that break off, and looking at what was saved.
#![allow(clippy::unwrap_used)]

mod fake;

use std::path::Path;
use std::sync::Arc;

use fake::{CLUSTER, Fake, OTHER_CLUSTER, refusal, run};
use raft_client::exit_codes::ExitCode;
use raft_core::{ClusterId, Configuration, NodeId, Position, SessionTable, SnapshotMeta};
use raft_disk::{SimDisk, SnapshotOptions, SnapshotStore};
use tonic::Status;
use wire::raft::{ErrorKind, SavedPart};

const AT: Position = Position { index: 40, term: 7 };

/// A snapshot's file of some chunks.
fn file_of(cluster: [u8; 16]) -> Vec<u8> {
    let options = SnapshotOptions {
        chunk_bytes: 100,
        ..SnapshotOptions::default()
    };
    let store = SnapshotStore::open(Arc::new(SimDisk::new(1)), options).unwrap();
    let meta = SnapshotMeta {
        position: AT,
        cluster_id: ClusterId(u128::from_be_bytes(cluster)),
        log_time_ms: 5,
        configuration_index: 3,
        configuration: Arc::new(Configuration::founding(NodeId(0xAB), true)),
    };
    let sessions = SessionTable::empty_as_of(AT.index).encode();
    let mut writer = store
        .begin(Arc::new(meta), "toy-1".to_owned(), sessions)
        .unwrap();
    writer.append(&[7; 950]).unwrap();
    writer.finish().unwrap();
    let reader = store.reader(AT).unwrap();
    reader.read_raw(0, usize::MAX).unwrap().to_vec()
}

/// The file as it is sent.
fn parts(cluster: [u8; 16]) -> Vec<Result<SavedPart, Status>> {
    let file = file_of(cluster);
    let checksum = u32::from_be_bytes(file[file.len() - 12..][..4].try_into().unwrap());
    let mut parts: Vec<_> = file
        .chunks(300)
        .enumerate()
        .map(|(number, data)| SavedPart {
            offset: number as u64 * 300,
            data: data.to_vec().into(),
            ..SavedPart::default()
        })
        .collect();
    parts[0].position = Some(wire::raft::Position {
        index: AT.index,
        term: AT.term,
    });
    parts[0].file_bytes = file.len() as u64;
    parts[0].checksum = checksum;
    parts[0].cluster_id = cluster.to_vec().into();
    parts.into_iter().map(Ok).collect()
}

fn broken() -> Status {
    Status::unavailable("the disk is gone")
}

fn names(folder: &Path) -> Vec<String> {
    let files = std::fs::read_dir(folder).unwrap();
    files
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect()
}

async fn save(nodes: &[&Fake], file: &Path, more: &[&str]) -> fake::Ran {
    let addresses: Vec<_> = nodes.iter().map(|node| node.address.to_string()).collect();
    let mut words = vec![
        "--timeout",
        "2s",
        "snapshot",
        "save",
        file.to_str().unwrap(),
    ];
    words.extend(more);
    run(&addresses.join(","), &words).await
}

#[tokio::test]
async fn a_transfer_that_is_cut_begins_again_at_another_node() {
    let whole = parts(CLUSTER);
    let with = |place: usize, change: &dyn Fn(&mut SavedPart)| {
        let mut parts = whole.clone();
        change(parts[place].as_mut().unwrap());
        parts
    };
    let mut late = whole[..2].to_vec();
    late.push(Err(broken()));
    let damaged = with(2, &|part| {
        let mut data = part.data.to_vec();
        data[5] ^= 1;
        part.data = data.into();
    });
    let cuts = [
        late,
        damaged,
        whole[..3].to_vec(),
        with(1, &|part| part.offset += 1),
        with(1, &|part| part.data = Vec::new().into()),
        with(0, &|part| part.file_bytes -= 900),
        with(0, &|part| part.position = None),
        with(0, &|part| part.checksum ^= 1),
    ];
    for (number, cut) in cuts.into_iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("saved");
        let (one, other) = (Fake::start().await, Fake::start().await);
        one.node.saves.lock().unwrap().push_back(cut);
        other.node.saves.lock().unwrap().push_back(whole.clone());
        let ran = save(&[&one, &other], &file, &[]).await;
        assert_eq!(ran.code, 0, "{number}: {}", ran.stderr);
        assert_eq!(std::fs::read(&file).unwrap(), file_of(CLUSTER));
        assert_eq!(names(folder.path()), ["saved"]);
        let said = String::from_utf8(ran.stdout).unwrap();
        let cluster = "c1".repeat(16);
        let sentence = format!("Saved the state as of entry 40 (term 7) of cluster {cluster}: ");
        assert!(said.starts_with(&sentence), "{said}");
        let asked = other.node.saved.lock().unwrap();
        if number != 6 {
            assert_eq!(asked[0].cluster_id, CLUSTER.to_vec(), "it is pinned");
        }
    }
}

/// What cut the transfer before says more than that the time was up in the middle of another.
#[tokio::test]
async fn the_end_of_the_time_hides_no_reason() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("saved");
    let node = Fake::start().await;
    let first = parts(CLUSTER)[0].clone();
    let cuts = [vec![first.clone(), Err(broken())], vec![first]];
    node.node.saves.lock().unwrap().extend(cuts);
    *node.node.last_save_hangs.lock().unwrap() = true;
    let ran = save(&[&node], &file, &[]).await;
    assert_eq!(ran.code, i32::from(ExitCode::NoSnapshot.number()));
    assert_eq!(node.node.saved.lock().unwrap().len(), 2);
    assert!(ran.stderr.contains("the disk is gone"), "{}", ran.stderr);
}

#[tokio::test]
async fn without_a_whole_one_nothing_is_saved() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("saved");
    let node = Fake::start().await;
    for _ in 0..100 {
        let cut = vec![parts(CLUSTER)[0].clone(), Err(broken())];
        node.node.saves.lock().unwrap().push_back(cut);
    }
    let ran = save(&[&node], &file, &[]).await;
    let code = i32::from(ExitCode::NoSnapshot.number());
    assert_eq!(ran.code, code, "{}", ran.stderr);
    assert!(ran.stderr.starts_with("No snapshot: the transfer from "));
    assert!(ran.stderr.contains("the disk is gone"), "{}", ran.stderr);
    assert!(ran.stderr.contains("after 300 of "), "{}", ran.stderr);
    assert!(
        names(folder.path()).is_empty(),
        "{:?}",
        names(folder.path())
    );
    let tries = node.node.saved.lock().unwrap().len();
    assert!((5..30).contains(&tries), "{tries} attempts in 2 s");
    // Nobody has one.
    let ran = save(&[&Fake::start().await], &file, &[]).await;
    assert_eq!(ran.code, code, "{}", ran.stderr);
    assert!(ran.stderr.contains("there is none"), "{}", ran.stderr);
}

#[tokio::test]
async fn a_snapshot_of_another_cluster_is_not_saved() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("saved");
    let (ours, other) = (Fake::start().await, Fake::start().await);
    let cut = parts(CLUSTER)[..1].to_vec();
    ours.node.saves.lock().unwrap().push_back(cut);
    let theirs = parts(OTHER_CLUSTER);
    other.node.saves.lock().unwrap().push_back(theirs);
    let ran = save(&[&ours, &other], &file, &[]).await;
    assert_eq!(ran.code, 10, "{}", ran.stderr);
    assert!(ran.stderr.contains(&"c2".repeat(16)), "{}", ran.stderr);
    assert!(names(folder.path()).is_empty());
    // Its name and its bytes disagree.
    let mut mixed = parts(OTHER_CLUSTER);
    mixed[0].as_mut().unwrap().cluster_id = CLUSTER.to_vec().into();
    let node = Fake::start().await;
    node.node.saves.lock().unwrap().push_back(mixed);
    let ran = save(&[&node], &file, &[]).await;
    let code = i32::from(ExitCode::NoSnapshot.number());
    assert_eq!(ran.code, code, "{}", ran.stderr);
    assert!(names(folder.path()).is_empty());
}

#[tokio::test]
async fn who_cannot_save_is_not_asked_again() {
    let folder = tempfile::tempdir().unwrap();
    let node = Fake::start().await;
    let never = vec![Err(refusal(ErrorKind::Unsupported, "it has no snapshots"))];
    node.node.saves.lock().unwrap().push_back(never);
    let ran = save(&[&node], &folder.path().join("saved"), &[]).await;
    assert_eq!(ran.code, 15, "{}", ran.stderr);
    assert!(ran.stderr.contains("it has no snapshots"), "{}", ran.stderr);
    assert_eq!(node.node.saved.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_file_that_exists_is_replaced_only_when_that_was_said() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("saved");
    std::fs::write(&file, "mine").unwrap();
    let node = Fake::start().await;
    for _ in 0..2 {
        node.node.saves.lock().unwrap().push_back(parts(CLUSTER));
    }
    let ran = save(&[&node], &file, &[]).await;
    let code = i32::from(ExitCode::InTheWay.number());
    assert_eq!(ran.code, code, "{}", ran.stderr);
    assert!(ran.stderr.contains("--force"), "{}", ran.stderr);
    assert!(
        node.node.saved.lock().unwrap().is_empty(),
        "nobody was asked"
    );
    assert_eq!(std::fs::read(&file).unwrap(), b"mine");
    let ran = save(&[&node], &file, &["--force"]).await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(std::fs::read(&file).unwrap(), file_of(CLUSTER));
}

#[tokio::test]
async fn a_saved_file_is_shown_or_its_damage_is() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("saved");
    let path = file.to_str().unwrap();
    let bytes = file_of(CLUSTER);
    std::fs::write(&file, &bytes).unwrap();
    let ran = run("nobody.invalid", &["snapshot", "inspect", path]).await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let shown = String::from_utf8(ran.stdout).unwrap();
    let expected = format!(
        "index          40\n\
         term           7\n\
         cluster        {}\n\
         log time       5 ms\n\
         format         toy-1\n\
         bytes          {}, 950 of the state\n\
         chunks         10\n",
        "c1".repeat(16),
        bytes.len()
    );
    assert!(shown.starts_with(&expected), "{shown}");
    let end = format!(
        "sessions       0\n\
         configuration  of entry 3: the cluster was founded\n\
         voter          {:032x}\n",
        0xAB
    );
    assert!(shown.ends_with(&end), "{shown}");
    let ran = run("nobody.invalid", &["snapshot", "inspect", path, "--json"]).await;
    let json: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!(json["index"], 40);
    assert_eq!(json["state_bytes"], 950);
    assert_eq!(json["voters"][0], format!("{:032x}", 0xAB));
    // Head, chunk, and end.
    for place in [30, bytes.len() / 2, bytes.len() - 20] {
        let mut damaged = bytes.clone();
        damaged[place] ^= 4;
        std::fs::write(&file, &damaged).unwrap();
        let ran = run("nobody.invalid", &["snapshot", "inspect", path]).await;
        let code = i32::from(ExitCode::Damaged.number());
        assert_eq!((ran.code, ran.stdout.len()), (code, 0), "{}", ran.stderr);
        assert!(ran.stderr.contains("is damaged at byte "), "{}", ran.stderr);
        assert!(ran.stderr.contains(path), "{}", ran.stderr);
    }
    std::fs::remove_file(&file).unwrap();
    let ran = run("nobody.invalid", &["snapshot", "inspect", path]).await;
    assert_eq!(ran.code, 17, "{}", ran.stderr);
    assert!(ran.stderr.contains(path), "{}", ran.stderr);
}
