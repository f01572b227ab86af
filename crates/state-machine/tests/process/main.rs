//! The program as it runs on a node: started, killed, started again, and driven as the daemon
//! drives it.

#![allow(clippy::unwrap_used)]

mod node;
mod snapshots;
mod watches;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use node::{
    NODE, PATIENCE, assert_failed, batch, execute, handshake, hello, junk, on_a_disk_of, outcomes,
    own_address, program, query, start, start_command, synced,
};
use tonic::Code;
use wire::state_machine::{ExecuteRequest, HandshakeRequest, Outcome, OutcomeKind};

const OK: OutcomeKind = OutcomeKind::Ok;

#[tokio::test]
async fn the_pizza_is_set_and_read_back() {
    let data = tempfile::tempdir().unwrap();
    let (process, mut client) = start(data.path(), own_address()).await;
    let hello = handshake(&mut client, 1).await;
    assert_eq!(
        (hello.name.as_str(), hello.durable, hello.applied_index),
        ("key-value", true, 0)
    );
    let put = &b"PUT pizzatoppings peporoni peppr cheddar anchoves onn it"[..];
    let commands = [b"", put, b"DELETE nothing", b"DANCE"];
    let reply = execute(&mut client, 1, 1, &commands).await.unwrap();
    let found = outcomes(&reply);
    assert_eq!(found[0], (OK, ""));
    assert_eq!(found[1], (OK, "Success!"));
    assert_eq!(
        found[2],
        (OutcomeKind::NotFound, r#"Key "nothing" was not found"#)
    );
    assert_eq!(found[3].0, OutcomeKind::Rejected);
    let answer = query(&mut client, 1, b"GET pizzatoppings").await;
    assert_eq!((answer.kind(), answer.applied_index), (OK, 4));
    assert_eq!(&answer.data[..], b"peporoni peppr cheddar anchoves onn it");
    let answer = query(&mut client, 1, b"GET pizza").await;
    assert_eq!(answer.kind(), OutcomeKind::NotFound);
    assert_eq!(&answer.data[..], br#"Key "pizza" was not found"#);
    process.kill_9();
}

#[tokio::test]
async fn the_largest_entry_of_a_daemon_with_its_defaults_goes_in_and_comes_out() {
    let data = tempfile::tempdir().unwrap();
    let (_process, mut client) = start(data.path(), own_address()).await;
    handshake(&mut client, 1).await;
    let value = vec![b'v'; (4 << 20) - b"PUT k ".len()];
    let entry = [b"PUT k ", &value[..]].concat();
    assert_eq!(entry.len(), 4 << 20);
    execute(&mut client, 1, 1, &[&entry]).await.unwrap();
    assert_eq!(query(&mut client, 1, b"GET k").await.data, value);
}

/// The outcome of a DELETE tells whether it ran once: a second time there is nothing to delete.
#[tokio::test]
async fn outcomes_outlive_kill_9_and_are_the_original_ones() {
    let data = tempfile::tempdir().unwrap();
    let address = own_address();
    let commands: [&[u8]; 4] = [b"PUT k 1", b"DELETE k", b"DELETE k", b"PUT k 2"];
    let (process, mut client) = start(data.path(), address).await;
    let first_hello = handshake(&mut client, 1).await;
    let first = execute(&mut client, 1, 1, &commands).await.unwrap();
    let expected = outcomes(&first);
    assert_eq!(expected[1], (OK, r#"Success! Deleted "k""#));
    assert_eq!(expected[2].0, OutcomeKind::NotFound);
    synced(&mut client, 1, 4).await;
    process.kill_9();

    let (process, mut client) = start(data.path(), address).await;
    let hello = handshake(&mut client, 1).await;
    assert_eq!((hello.applied_index, hello.applied_term), (4, 1));
    assert_ne!(hello.nonce, first_hello.nonce);
    let replay = execute(&mut client, 1, 1, &commands).await.unwrap();
    assert_eq!(outcomes(&replay), expected);
    // They came in one batch, and each of them is found alone and beside any others.
    for (from, first) in (0..4).zip(1..) {
        for to in from + 1..=4 {
            let part = execute(&mut client, 1, first, &commands[from..to]).await;
            assert_eq!(outcomes(&part.unwrap()), expected[from..to]);
        }
    }
    assert_eq!(&query(&mut client, 1, b"GET k").await.data[..], b"2");

    // Once the daemon has no more use for them, they are gone, for good.
    let floor = ExecuteRequest {
        results_floor: 3,
        ..batch(1, 5, &[b"PUT l 3"])
    };
    client.execute(floor).await.unwrap();
    synced(&mut client, 1, 5).await;
    process.kill_9();
    let (_process, mut client) = start(data.path(), address).await;
    let hello = handshake(&mut client, 1).await;
    assert_eq!((hello.applied_index, hello.results_floor), (5, 3));
    let replay = execute(&mut client, 1, 1, &commands).await.unwrap();
    let kinds = replay
        .outcomes
        .iter()
        .map(Outcome::kind)
        .collect::<Vec<_>>();
    let already = OutcomeKind::AlreadyApplied;
    assert_eq!(kinds, [already, already, already, OK]);
}

/// The outcome of a CAS repeats the new value. Three of these do not fit into one record.
#[tokio::test]
async fn large_outcomes_outlive_kill_9_as_well() {
    let data = tempfile::tempdir().unwrap();
    let address = own_address();
    let (a, b) = ("a".repeat(700_000), "b".repeat(700_000));
    let entries = [
        "PUT k a".to_owned(),
        format!("CAS k a {a}"),
        format!("CAS k {a} {b}"),
        format!("CAS k {b} {a}"),
        "DELETE k".to_owned(),
    ];
    let commands = entries.each_ref().map(String::as_bytes);
    let (process, mut client) = start(data.path(), address).await;
    handshake(&mut client, 1).await;
    let first = execute(&mut client, 1, 1, &commands).await.unwrap();
    assert!(outcomes(&first).iter().all(|(kind, _)| *kind == OK));
    synced(&mut client, 1, 5).await;
    process.kill_9();
    let (_process, mut client) = start(data.path(), address).await;
    handshake(&mut client, 1).await;
    for (from, index) in (0..5).zip(1..) {
        let again = execute(&mut client, 1, index, &commands[from..]).await;
        assert!(
            again.unwrap().outcomes == first.outcomes[from..],
            "from {index}"
        );
    }
}

#[tokio::test]
async fn sigterm_syncs_and_exits_0() {
    let data = tempfile::tempdir().unwrap();
    let address = own_address();
    let (process, mut client) = start(data.path(), address).await;
    handshake(&mut client, 1).await;
    let reply = execute(&mut client, 1, 1, &[b"PUT k 1", b"PUT k 2"])
        .await
        .unwrap();
    assert_eq!(
        reply.durable_index, 0,
        "the commit is lazy, or this test shows nothing"
    );
    assert!(process.terminate().success());
    let (_process, mut client) = start(data.path(), address).await;
    assert_eq!(handshake(&mut client, 1).await.applied_index, 2);
}

/// Kill -9 at any moment of a stream of writes: what is found is the state as of one index, which
/// is no lower than the durable one that was reported and no higher than what was sent.
#[tokio::test]
async fn kill_9_among_writes_leaves_a_prefix() {
    const ROUNDS: u64 = 6;
    const KEYS: u64 = 7;
    let data = tempfile::tempdir().unwrap();
    let address = own_address();
    let (mut next, mut durable, mut fell_back) = (1, 0, 0);
    let mut expected = BTreeMap::new();
    for round in 1..=ROUNDS {
        let (process, mut client) = start(data.path(), address).await;
        let applied = handshake(&mut client, round).await.applied_index;
        assert!(
            (durable..next).contains(&applied),
            "{applied} is not in {durable}..{next}"
        );
        fell_back += next - 1 - applied;
        // A key has the value of the last index that wrote it, up to the applied one.
        for key in 0..KEYS {
            let last = (1..=applied).rev().find(|index| index % KEYS == key);
            let answer = query(&mut client, round, format!("GET k{key}").as_bytes()).await;
            assert_eq!(answer.applied_index, applied);
            match last {
                Some(index) => assert_eq!(answer.data, index.to_string()),
                None => assert_eq!(answer.kind(), OutcomeKind::NotFound),
            }
        }
        next = applied + 1;
        let stop = Instant::now() + Duration::from_millis(450 * round);
        while Instant::now() < stop {
            let command = |index: u64| format!("PUT k{} {index}", index % KEYS).into_bytes();
            let commands = (next..next + 20).map(command).collect::<Vec<_>>();
            let commands = commands.iter().map(Vec::as_slice).collect::<Vec<_>>();
            let reply = execute(&mut client, round, next, &commands).await.unwrap();
            for outcome in &reply.outcomes {
                let earlier = expected.insert(outcome.index, outcome.data.clone());
                assert!(earlier.is_none_or(|earlier| earlier == outcome.data));
            }
            assert!(reply.durable_index >= durable && reply.durable_index <= reply.applied_index);
            (next, durable) = (next + 20, reply.durable_index);
        }
        process.kill_9();
    }
    assert!(
        durable > 0,
        "nothing was ever synced, and this test shows little"
    );
    assert!(
        fell_back > 0,
        "nothing was ever lost, and this test shows little"
    );
}

#[tokio::test]
async fn a_second_process_on_the_same_data_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let (_process, mut client) = start(data.path(), own_address()).await;
    let second = program(data.path(), own_address()).output().unwrap();
    assert_failed(&second, "in use by another state machine");
    handshake(&mut client, 1).await;
}

#[tokio::test]
async fn the_state_of_a_retired_node_is_moved_aside() {
    let data = tempfile::tempdir().unwrap();
    let address = own_address();
    let (process, mut client) = start(data.path(), address).await;
    handshake(&mut client, 1).await;
    execute(&mut client, 1, 1, &[b"PUT k 1"]).await.unwrap();
    assert!(process.terminate().success());

    // A marker of some other node changes nothing.
    let marker = data.path().join("retired");
    fs::write(&marker, format!("{:032x}\n", NODE + 1)).unwrap();
    let (process, mut client) = start(data.path(), address).await;
    assert_eq!(handshake(&mut client, 1).await.applied_index, 1);
    assert!(process.terminate().success());

    fs::write(&marker, format!("{NODE:032x}\n")).unwrap();
    let (process, mut client) = start(data.path(), address).await;
    let call = HandshakeRequest {
        node_id: wire::id_bytes(NODE + 2),
        ..hello(1)
    };
    let hello = client.handshake(call).await.unwrap().into_inner();
    assert_eq!(hello.applied_index, 0);
    let aside = data.path().join("state-machine.retired-01234567");
    assert!(aside.join("state.redb").is_file());
    assert!(process.terminate().success());

    fs::write(&marker, "nonsense").unwrap();
    let refused = program(data.path(), address).output().unwrap();
    assert_failed(&refused, "nonsense");
}

#[test]
fn a_directory_that_cannot_be_written_is_one_sentence() {
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("file");
    fs::write(&file, "").unwrap();
    let output = program(&file.join("data"), own_address()).output().unwrap();
    assert_failed(&output, "cannot make");
}

#[test]
fn a_store_that_is_no_store_is_one_sentence_and_is_left_as_it_is() {
    let data = tempfile::tempdir().unwrap();
    let folder = data.path().join("state-machine");
    fs::create_dir(&folder).unwrap();
    let file = folder.join("state.redb");
    fs::write(&file, junk(100_000)).unwrap();
    let output = program(data.path(), own_address()).output().unwrap();
    assert_failed(&output, "cannot open");
    assert_eq!(fs::read(&file).unwrap(), junk(100_000));
}

#[tokio::test]
async fn a_damaged_store_is_one_sentence_or_the_state_as_it_was() {
    let data = tempfile::tempdir().unwrap();
    let address = own_address();
    let (process, mut client) = start(data.path(), address).await;
    handshake(&mut client, 1).await;
    let value = junk(3000);
    for index in 1..=50 {
        let put = [format!("PUT k{index} ").as_bytes(), &value].concat();
        execute(&mut client, 1, index, &[&put]).await.unwrap();
    }
    assert!(process.terminate().success());
    let file = data.path().join("state-machine/state.redb");
    let good = fs::read(&file).unwrap();
    for (from, length) in [(0, 64), (64, 300), (4096, 4096), (good.len() / 2, 8192)] {
        let mut bad = good.clone();
        bad[from..from + length].fill(0xa5);
        fs::write(&file, &bad).unwrap();
        let child = program(data.path(), address)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut process = node::Process(child);
        // Either it listens, or it has ended by itself with a sentence.
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(address).is_err() {
            if let Some(status) = process.0.try_wait().unwrap() {
                assert_eq!(status.code(), Some(1));
                let stderr = process.stderr();
                assert!(stderr.contains("[STATEMACHINE] cannot open"), "{stderr}");
                break;
            }
            assert!(Instant::now() < deadline, "neither up nor ended");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn an_address_in_use_is_one_sentence() {
    let address = own_address();
    let _listener = std::net::TcpListener::bind(address).unwrap();
    let data = tempfile::tempdir().unwrap();
    let output = program(data.path(), address).output().unwrap();
    assert_failed(&output, &format!("cannot listen on {address}"));
}

#[tokio::test]
async fn junk_harms_nobody_on_the_port_in_an_entry_and_in_a_query() {
    let data = tempfile::tempdir().unwrap();
    let address = own_address();
    let (_process, mut client) = start(data.path(), address).await;
    handshake(&mut client, 1).await;
    let junk = junk(100_000);
    for prefix in [
        &b""[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(prefix).unwrap();
        // The other side may hang up in the middle of it.
        let _ = stream.write_all(&junk);
    }
    let reply = execute(&mut client, 1, 1, &[b"PUT k v", &junk])
        .await
        .unwrap();
    assert_eq!(reply.outcomes[1].kind(), OutcomeKind::Rejected);
    assert_eq!(&query(&mut client, 1, b"GET k").await.data[..], b"v");
    assert_eq!(
        query(&mut client, 1, &junk).await.kind(),
        OutcomeKind::Rejected
    );
}

#[tokio::test]
async fn a_full_disk_refuses_the_batch_until_there_is_room() {
    const DISK_BYTES: usize = 64 << 20;
    let data = tempfile::tempdir().unwrap();
    let address = own_address();
    let Some(command) = on_a_disk_of(DISK_BYTES, data.path(), address) else {
        println!("SKIPPED: namespace");
        return;
    };
    let (process, mut client) = start_command(command, address).await;
    handshake(&mut client, 1).await;
    execute(&mut client, 1, 1, &[b"PUT k before"])
        .await
        .unwrap();

    let disk = format!("/proc/{}/root{}", process.0.id(), data.path().display());
    let others = Path::new(&disk).join("others");
    // It stops where the disk does.
    let _ = fs::write(&others, vec![1; DISK_BYTES]);
    let put = [b"PUT k ", &vec![b'v'; 1 << 20][..]].concat();
    for _ in 0..3 {
        let refused = execute(&mut client, 1, 2, &[&put]).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert!(
            refused.message().contains("is full"),
            "{}",
            refused.message()
        );
        assert_eq!(&query(&mut client, 1, b"GET k").await.data[..], b"before");
    }
    fs::remove_file(&others).unwrap();
    let reply = execute(&mut client, 1, 2, &[&put]).await.unwrap();
    assert_eq!(reply.applied_index, 2);
    assert_eq!(query(&mut client, 1, b"GET k").await.data.len(), 1 << 20);
    synced(&mut client, 1, 2).await;
}

/// Nothing ticks while there is nothing to do: no thread of the process wakes.
#[tokio::test]
async fn an_idle_process_sleeps() {
    /// Several times the interval at which a process that has something to sync would wake.
    const WATCHED: Duration = Duration::from_secs(6);
    let data = tempfile::tempdir().unwrap();
    let (process, mut client) = start(data.path(), own_address()).await;
    handshake(&mut client, 1).await;
    execute(&mut client, 1, 1, &[b"PUT k v"]).await.unwrap();
    synced(&mut client, 1, 1).await;
    let before = wakes(process.0.id());
    tokio::time::sleep(WATCHED).await;
    let after = wakes(process.0.id());
    // A thread that waited for work in vain has ended, and is not counted.
    let woken = after
        .iter()
        .map(|(thread, count)| count - before.get(thread).unwrap_or(&0));
    let woken = woken.sum::<u64>();
    assert!(woken <= 2, "{woken} times woken in {WATCHED:?}");
}

/// How often each thread of a process has gone to sleep until now.
fn wakes(pid: u32) -> BTreeMap<String, u64> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let count = |thread: fs::DirEntry| -> Option<(String, u64)> {
        // Gone between the listing and the look.
        let status = fs::read_to_string(thread.path().join("status")).ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        let name = thread.file_name().into_string().unwrap();
        Some((name, line.unwrap().trim().parse().unwrap()))
    };
    threads
        .filter_map(|thread| count(thread.unwrap()))
        .collect()
}
