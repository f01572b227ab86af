//! What a person sees: standard output to the byte, standard error, exit codes.
#![allow(clippy::unwrap_used)]

mod fake;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use fake::{
    Fake, NO_HOST, OTHER_CLUSTER, Ran, Step, nobody, not_leader, raft_client, refusal, run,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wire::raft::{ErrorKind, NodeReference, NodeStatus, ResultKind, StatusReply};

const PIZZA: &[u8] =
    b"Success! Set \"pizzatoppings\" to: \"peporoni peppr cheddar anchoves onn it\"";

#[tokio::test]
async fn the_pizza() {
    let node = Fake::start().await;
    // The state machine does not repeat the value: the sentence is made of what was sent.
    node.will(Step::Say(ResultKind::Ok, b"Success!"));
    let words = [
        "PUT",
        "pizzatoppings",
        "peporoni",
        "peppr",
        "cheddar",
        "anchoves",
        "onn",
        "it",
    ];
    let ran = run(&node.address.to_string(), &words).await;
    assert_eq!(ran.stdout, [PIZZA, b"\n"].concat());
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    let entry = b"PUT pizzatoppings peporoni peppr cheddar anchoves onn it".to_vec();
    assert_eq!(node.entries(), [entry]);
    assert_eq!(node.sessions(), [(41, 1)]);
}

#[tokio::test]
async fn bytes_go_in_and_come_out_as_they_are() {
    let node = Fake::start().await;
    let endpoint = node.address.to_string();
    let value = OsStr::from_bytes(b"\xff\xfe  two");
    node.will(Step::Say(ResultKind::Ok, b"Success!"))
        .will(Step::Say(ResultKind::Ok, b"Success!"));
    let output = raft_client(&endpoint)
        .args(["put", "k"])
        .arg(value)
        .output()
        .await
        .unwrap();
    assert!(output.status.success());
    assert_eq!(output.stdout, b"Success! Set \"k\" to: \"\xff\xfe  two\"\n");

    let mut child = raft_client(&endpoint)
        .args(["put", "k", "--stdin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"line\n\0\xff ").await.unwrap();
    drop(stdin);
    let output = child.wait_with_output().await.unwrap();
    assert!(output.status.success());
    assert_eq!(output.stdout, b"Success! Set \"k\" to: \"line\n\0\xff \"\n");
    let expected = [
        b"PUT k \xff\xfe  two".to_vec(),
        b"PUT k line\n\0\xff ".to_vec(),
    ];
    assert_eq!(node.entries(), expected);

    node.will(Step::Say(ResultKind::Ok, b"\0\xff\n"));
    let ran = run(&endpoint, &["GET", "k"]).await;
    assert_eq!(ran.stdout, b"\0\xff\n\n");
    assert_eq!(&node.node.queries.lock().unwrap()[0].query[..], b"GET k");
}

#[tokio::test]
async fn a_no_of_the_state_machine_is_exit_code_1_and_goes_to_standard_error() {
    let node = Fake::start().await;
    let endpoint = node.address.to_string();
    node.will(Step::Say(ResultKind::NotFound, b"There is no \"k\""))
        .will(Step::Say(ResultKind::NotFound, b"There is no \"k\""))
        .will(Step::Say(ResultKind::Rejected, b"FROB is no verb"));
    for (words, sentence) in [
        (["GET", "k"], "There is no \"k\"\n"),
        (["delete", "k"], "There is no \"k\"\n"),
        (["entry", "FROB"], "FROB is no verb\n"),
    ] {
        let ran = run(&endpoint, &words).await;
        assert_eq!(
            (ran.code, ran.stdout.len(), ran.stderr.as_str()),
            (1, 0, sentence)
        );
    }
    assert_eq!(node.entries(), [b"DELETE k".to_vec(), b"FROB".to_vec()]);
}

#[tokio::test]
async fn a_stale_answer_says_of_when_it_is() {
    let node = Fake::start().await;
    node.will(Step::Say(ResultKind::Ok, b"v"));
    let ran = run(&node.address.to_string(), &["GET", "k", "--stale"]).await;
    assert_eq!((ran.code, &ran.stdout[..]), (0, &b"v\n"[..]));
    assert_eq!(ran.stderr, "[STALE] as of index 17\n");
    assert!(node.node.queries.lock().unwrap()[0].stale);
}

#[tokio::test]
async fn nobody_answers() {
    let address = nobody();
    let begun = Instant::now();
    for verb in [&["PUT", "k", "v"][..], &["status"], &["leader"]] {
        let ran = run(&address.to_string(), verb).await;
        let sentence =
            format!("No node answered at {address} (refused). Start one: scripts/cluster up 3\n");
        assert_eq!((ran.code, ran.stderr), (3, sentence), "{verb:?}");
    }
    let ran = run(NO_HOST, &["status"]).await;
    assert_eq!(ran.code, 3);
    let sentence = format!("{NO_HOST}:6004 (the name does not resolve)");
    assert!(ran.stderr.contains(&sentence), "{}", ran.stderr);
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn one_redirect_is_announced() {
    let (follower, leader) = (Fake::start().await, Fake::start().await);
    follower.will(Step::Refuse(not_leader(leader.reference("raft-2"))));
    let ran = run(&follower.address.to_string(), &["PUT", "k", "v"]).await;
    assert_eq!((ran.code, &ran.stdout[..]), (0, &b"done\n"[..]));
    assert_eq!(
        ran.stderr,
        format!("[REDIRECT] the leader is raft-2 at {}\n", leader.address)
    );
}

#[tokio::test]
async fn every_kind_of_error_has_its_exit_code_and_sentence() {
    let cases = [
        (ErrorKind::NoLeader, 4, "No leader was found in time: "),
        (ErrorKind::TooLarge, 6, "Not accepted for its size: "),
        (ErrorKind::Overloaded, 7, "Overloaded: "),
        (ErrorKind::SessionExpired, 8, "The session has expired: "),
        (ErrorKind::OutcomeUnknown, 9, "The outcome is unknown: "),
        (ErrorKind::OtherCluster, 10, "Another cluster: "),
        (ErrorKind::NoCluster, 11, "No cluster yet: "),
        (ErrorKind::Founding, 11, "No cluster yet: "),
        (ErrorKind::LogFull, 13, "The log is full: "),
        (ErrorKind::Invalid, 15, "Refused: "),
    ];
    for (kind, code, sentence) in cases {
        let node = Fake::start().await;
        for _ in 0..100 {
            node.will(Step::Refuse(refusal(kind, "because\u{1b}[2J.")));
        }
        let words = ["--timeout", "1s", "PUT", "k", "v"];
        let ran = run(&node.address.to_string(), &words).await;
        assert_eq!(ran.code, code, "{kind:?}: {}", ran.stderr);
        assert!(ran.stderr.starts_with(sentence), "{kind:?}: {}", ran.stderr);
        assert!(ran.stderr.contains("because") && !ran.stderr.contains('\u{1b}'));
        assert_eq!(
            (ran.stdout.len(), ran.stderr.lines().count()),
            (0, 1),
            "{}",
            ran.stderr
        );
    }
    for (kind, code, sentence) in [
        (ErrorKind::NoQuorum, 5, "No quorum: "),
        (
            ErrorKind::StateMachineDown,
            12,
            "The state machine is down: ",
        ),
    ] {
        let node = Fake::start().await;
        for _ in 0..100 {
            node.will(Step::Refuse(refusal(kind, "because")));
        }
        let ran = run(&node.address.to_string(), &["--timeout", "1s", "GET", "k"]).await;
        assert_eq!(ran.code, code, "{kind:?}: {}", ran.stderr);
        assert!(ran.stderr.starts_with(sentence), "{kind:?}: {}", ran.stderr);
    }
}

#[tokio::test]
async fn another_cluster_at_the_second_endpoint() {
    let (ours, other) = (Fake::start().await, Fake::start().await);
    ours.will(Step::Refuse(tonic::Status::unavailable("broken")));
    other.will(Step::SayFrom(OTHER_CLUSTER));
    // The session pins our cluster; the entry's first attempt ends in doubt, so doubt is reported.
    let endpoints = format!("{},{}", ours.address, other.address);
    let ran = run(&endpoints, &["PUT", "k", "v"]).await;
    assert_eq!(ran.code, 9, "{}", ran.stderr);
    assert!(ran.stderr.contains("c2c2c2c2"), "{}", ran.stderr);
}

#[tokio::test]
async fn a_time_that_runs_out() {
    let node = Fake::start().await;
    node.will(Step::Hang);
    let begun = Instant::now();
    let ran = run(
        &node.address.to_string(),
        &["--timeout", "500ms", "GET", "k"],
    )
    .await;
    assert_eq!(ran.code, 14, "{}", ran.stderr);
    assert!(begun.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn what_makes_no_sense_is_exit_code_2() {
    let lines: [&[&str]; 14] = [
        &[],
        &["PUT"],
        &["PUT", "k"],
        &["PUT", "two words", "v"],
        &["GET"],
        &["FROB", "k"],
        &["--timeout", "0", "status"],
        &["--endpoints", "a:b", "status"],
        &["PUT", "k", "--stdin", "v"],
        &["CAS", "k", "old"],
        &["INCR", "k", "many"],
        &["LIST", "two words"],
        &["bench", "put", "--callers", "0"],
        &["bench", "get", "--operations", "1", "--duration", "1"],
    ];
    for words in lines {
        let ran = run(&nobody().to_string(), words).await;
        assert_eq!(
            (ran.code, ran.stdout.len()),
            (2, 0),
            "{words:?}: {}",
            ran.stderr
        );
    }
    let ran = run("", &["--help"]).await;
    let help = String::from_utf8(ran.stdout).unwrap();
    assert_eq!(ran.code, 0);
    assert!(help.contains("raft-client PUT pizzatoppings") && help.contains("Exit codes:"));
}

#[tokio::test]
async fn health_is_serving_refused_or_no_raft_at_all() {
    let node = Fake::start().await;
    let ran = run(&node.address.to_string(), &["health"]).await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(
        ran.stdout,
        format!("{} SERVING\n", node.address).into_bytes()
    );
    let ran = run(&nobody().to_string(), &["health"]).await;
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    let ran = run(&format!("{},{}", node.address, nobody()), &["health"]).await;
    assert_eq!(ran.code, 3, "every endpoint must serve: {}", ran.stderr);
}

/// Three nodes: one leads, one follows, one is dead; and a stranger that nobody can reach.
async fn three_nodes() -> (Fake, Fake, String) {
    let (leader, follower) = (Fake::start().await, Fake::start().await);
    let dead = nobody();
    let seen = |node: NodeReference, standing: &str, health: &str| NodeStatus {
        node: Some(node),
        standing: standing.to_owned(),
        health: health.to_owned(),
        ..Default::default()
    };
    let nodes = vec![
        seen(leader.reference("anna"), "voter", "alive"),
        seen(follower.reference("bert"), "voter", "alive"),
        seen(fake::reference("carl", dead), "learner", "dead"),
    ];
    let status = |node: NodeReference, role: &str, commit_index: u64| StatusReply {
        node: Some(node),
        cluster_id: fake::CLUSTER.to_vec().into(),
        role: role.to_owned(),
        term: 3,
        leader: Some(leader.reference("anna")),
        commit_index,
        applied_index: commit_index - 1,
        nodes: nodes.clone(),
        alarms: vec!["the disk is \u{7}nearly full".to_owned()],
        ..Default::default()
    };
    *leader.node.status.lock().unwrap() = status(leader.reference("anna"), "leader", 12);
    *follower.node.status.lock().unwrap() = status(follower.reference("bert"), "follower", 11);
    (leader, follower, dead.to_string())
}

#[tokio::test]
async fn status_shows_every_node_in_its_own_words() {
    let (leader, follower, dead) = three_nodes().await;
    // Only the follower is an endpoint: the others are found through it.
    let ran = run(&follower.address.to_string(), &["status"]).await;
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    let text = String::from_utf8(ran.stdout).unwrap();
    let lines: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split("  ").filter(|cell| !cell.is_empty()).collect())
        .collect();
    let row = |name: &str| {
        let line = lines
            .iter()
            .find(|line| line[0] == name)
            .unwrap_or_else(|| panic!("{text}"));
        line.iter().map(|cell| cell.trim()).collect::<Vec<_>>()
    };
    let (one, two) = (leader.address.to_string(), follower.address.to_string());
    assert_eq!(row("NODE")[..3], ["NODE", "ADDRESS", "ROLE"]);
    let expected = [
        "anna", &one, "leader", "3", "anna", "12", "11", "voter", "alive",
    ];
    assert_eq!(row("anna"), expected);
    let expected = [
        "bert", &two, "follower", "3", "anna", "11", "10", "voter", "alive",
    ];
    assert_eq!(row("bert"), expected);
    let expected = [
        "carl",
        &dead,
        "-",
        "-",
        "-",
        "-",
        "-",
        "learner",
        "dead, refused",
    ];
    assert_eq!(row("carl"), expected);
    assert!(
        text.contains("[ALARM] anna: the disk is  nearly full\n"),
        "{text}"
    );

    let ran = run(&follower.address.to_string(), &["status", "--json"]).await;
    let json: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!(json["leader"], "anna");
    assert_eq!(json["nodes"].as_array().unwrap().len(), 3);
    let silent = |row: &&serde_json::Value| row["answered"] == false;
    let absent = json["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .find(silent)
        .unwrap();
    assert_eq!(
        (&absent["node"], &absent["health"]),
        (&"carl".into(), &"dead, refused".into())
    );
    assert_eq!(json["cluster_id"].as_str().unwrap().len(), 32);
}

#[tokio::test]
async fn status_works_without_a_leader_and_names_endpoints_that_are_silent() {
    let (_leader, follower, _) = three_nodes().await;
    let mut status = follower.node.status.lock().unwrap().clone();
    status.leader = None;
    status.nodes.clear();
    *follower.node.status.lock().unwrap() = status;
    let silent = nobody();
    let ran = run(&format!("{silent},{}", follower.address), &["status"]).await;
    let text = String::from_utf8(ran.stdout).unwrap();
    assert_eq!(ran.code, 0);
    assert!(
        text.contains(&silent.to_string()) && text.contains("refused"),
        "{text}"
    );
    let ran = run(
        &follower.address.to_string(),
        &["--timeout", "1s", "leader"],
    )
    .await;
    assert_eq!((ran.code, ran.stdout.len()), (4, 0), "{}", ran.stderr);
}

/// The time is up in the middle of a round of questions: who answered in the one before it still answered.
#[tokio::test]
async fn a_node_that_knew_no_leader_and_then_falls_silent_is_no_silent_cluster() {
    let (_leader, follower, _) = three_nodes().await;
    follower.node.status.lock().unwrap().leader = None;
    follower.node.status.lock().unwrap().nodes.clear();
    *follower.node.statuses_left.lock().unwrap() = Some(1);
    let endpoint = follower.address.to_string();
    let ran = run(&endpoint, &["--timeout", "1s", "leader"]).await;
    assert_eq!((ran.code, ran.stdout.len()), (4, 0), "{}", ran.stderr);
}

#[tokio::test]
async fn leader_prints_the_name_alone() {
    let (_leader, follower, _) = three_nodes().await;
    let ran = run(&follower.address.to_string(), &["leader"]).await;
    assert_eq!(
        (ran.code, &ran.stdout[..], ran.stderr.as_str()),
        (0, &b"anna\n"[..], "")
    );
}

#[tokio::test]
async fn leave_names_a_node_by_what_people_call_it() {
    let (leader, follower, dead) = three_nodes().await;
    let endpoint = follower.address.to_string();
    for word in ["carl", &dead, "636363"] {
        let ran = run(&endpoint, &["leave", word]).await;
        assert_eq!(
            (ran.code, &ran.stdout[..]),
            (0, &b"done\n"[..]),
            "{}",
            ran.stderr
        );
    }
    let asked = || follower.node.left.lock().unwrap().clone();
    assert!(
        asked()
            .iter()
            .all(|asked| asked.node_id == [b'c'; 16].as_slice())
    );

    follower.will(Step::Say(
        ResultKind::Rejected,
        b"bert is needed as a voter",
    ));
    let ran = run(&endpoint, &["leave"]).await;
    assert_eq!(
        (ran.code, ran.stderr.as_str()),
        (1, "bert is needed as a voter\n")
    );
    assert_eq!(asked().last().unwrap().node_id, [b'b'; 16].as_slice());

    let ran = run(&endpoint, &["leave", "dora"]).await;
    assert_eq!(ran.code, 2);
    assert!(
        ran.stderr.contains("there are anna, bert, carl"),
        "{}",
        ran.stderr
    );
    let ran = run(&format!("{endpoint},{}", leader.address), &["leave"]).await;
    assert_eq!(
        ran.code, 2,
        "which of the two endpoints is meant? {}",
        ran.stderr
    );
    assert_eq!(asked().len(), 4);
}

#[tokio::test]
async fn transfer_prints_the_new_leader() {
    let (_leader, follower, _) = three_nodes().await;
    *follower.node.leader.lock().unwrap() = Some(follower.reference("bert"));
    let ran = run(&follower.address.to_string(), &["transfer", "bert"]).await;
    assert_eq!(
        (ran.code, &ran.stdout[..]),
        (0, &b"bert\n"[..]),
        "{}",
        ran.stderr
    );
    let asked = follower.node.transfers.lock().unwrap();
    assert_eq!(asked[0].to, [b'b'; 16].as_slice());
}

#[tokio::test]
async fn skip_says_where_the_order_stands() {
    let (leader, follower, _) = three_nodes().await;
    let endpoints = format!("{},{}", follower.address, leader.address);
    let ran = run(&endpoints, &["skip", "17"]).await;
    let said = b"The order not to run entry 17 stands at index 42\n";
    assert_eq!(
        (ran.code, &ran.stdout[..]),
        (0, &said[..]),
        "{}",
        ran.stderr
    );
    let asked = follower.node.skips.lock().unwrap().clone();
    assert_eq!(
        (asked.len(), asked[0].index, asked[0].forwarded),
        (1, 17, false)
    );
    assert_eq!(asked[0].cluster_id, fake::CLUSTER.as_slice(), "pinned");
    assert!((1..5000).contains(&asked[0].timeout_ms));

    for wrong in ["0", "-1", "x"] {
        assert_eq!(run(&endpoints, &["skip", wrong]).await.code, 2, "{wrong}");
    }
    follower.will(Step::Refuse(refusal(ErrorKind::Invalid, "17 is no entry")));
    let ran = run(&endpoints, &["skip", "17"]).await;
    assert_eq!(ran.code, 15, "{}", ran.stderr);
    assert!(ran.stderr.contains("17 is no entry"), "{}", ran.stderr);
    assert_eq!(follower.node.skips.lock().unwrap().len(), 2);

    // An index means nothing in another cluster.
    leader.node.status.lock().unwrap().cluster_id = OTHER_CLUSTER.to_vec().into();
    let ran = run(&endpoints, &["skip", "17"]).await;
    assert_eq!(ran.code, 10, "{}", ran.stderr);
    let skips = |node: &Fake| node.node.skips.lock().unwrap().len();
    assert_eq!((skips(&follower), skips(&leader)), (2, 0));
}

#[tokio::test]
async fn an_order_to_skip_without_an_answer_may_stand() {
    let (_leader, follower, _) = three_nodes().await;
    let unknown = || Step::Refuse(refusal(ErrorKind::OutcomeUnknown, "stepped down"));
    follower.will(unknown());
    let endpoint = follower.address.to_string();
    let ran = run(&endpoint, &["skip", "17"]).await;
    assert_eq!(ran.code, 0, "it is sent again: {}", ran.stderr);
    follower.will(Step::Hang);
    let ran = run(&endpoint, &["--timeout", "500ms", "skip", "17"]).await;
    assert_eq!(ran.code, 9, "{}", ran.stderr);
}

#[tokio::test]
async fn a_daemon_that_is_too_old_for_a_call_is_told_from_silence() {
    let (_leader, follower, _) = three_nodes().await;
    for _ in 0..100 {
        follower.will(Step::Refuse(tonic::Status::unimplemented("")));
    }
    let endpoint = follower.address.to_string();
    let ran = run(&endpoint, &["--timeout", "500ms", "skip", "17"]).await;
    assert_eq!(ran.code, 15, "{}", ran.stderr);
    assert!(ran.stderr.contains("not implemented"), "{}", ran.stderr);
}

#[tokio::test]
async fn cas_incr_and_list_are_entries_and_queries() {
    let node = Fake::start().await;
    let endpoint = node.address.to_string();
    node.will(Step::Say(
        ResultKind::Ok,
        b"Success! Set \"k\" to: \"two words\"",
    ))
    .will(Step::Say(ResultKind::Rejected, b"Key \"k\" holds \"x\""))
    .will(Step::Say(ResultKind::NotFound, b"Key \"k\" was not found"))
    .will(Step::Say(ResultKind::Ok, b"5"))
    .will(Step::Say(ResultKind::Ok, b"a\nb"))
    .will(Step::Say(ResultKind::Ok, b""));
    let lines: [(&[&str], i32, &str, &str); 6] = [
        (
            &["CAS", "k", "old", "two words"],
            0,
            "Success! Set \"k\" to: \"two words\"\n",
            "",
        ),
        (&["CAS", "k", "a", "b"], 1, "", "Key \"k\" holds \"x\"\n"),
        (&["CAS", "k", "a", "b"], 1, "", "Key \"k\" was not found\n"),
        (&["INCR", "k", "-5"], 0, "5\n", ""),
        (&["LIST", "--after", "k"], 0, "a\nb\n", ""),
        (&["LIST", "none"], 0, "", ""),
    ];
    for (words, code, stdout, stderr) in lines {
        let ran = run(&endpoint, words).await;
        let said = (ran.code, &ran.stdout[..], ran.stderr.as_str());
        assert_eq!(said, (code, stdout.as_bytes(), stderr), "{words:?}");
    }
    let entries = [
        "CAS k old \"two words\"",
        "CAS k a b",
        "CAS k a b",
        "INCR k -5",
    ];
    assert_eq!(
        node.entries(),
        entries.map(|entry| entry.as_bytes().to_vec())
    );
    assert_eq!(
        node.sessions()[3],
        (44, 1),
        "an INCR is safe to repeat in its session alone"
    );
    let queries = node.node.queries.lock().unwrap();
    assert_eq!(
        (&queries[0].query[..], &queries[1].query[..]),
        (&b"LIST after k"[..], &b"LIST none"[..])
    );
}

#[tokio::test]
async fn a_large_value_reaches_the_daemon_which_knows_the_limit() {
    let node = Fake::start().await;
    node.will(Step::Refuse(refusal(
        ErrorKind::TooLarge,
        "5242886 bytes; the limit is 4194304",
    )));
    let mut child = raft_client(&node.address.to_string())
        .args(["put", "k", "--stdin"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&vec![b'x'; 5 * 1024 * 1024]).await.unwrap();
    drop(stdin);
    let ran: Ran = child.wait_with_output().await.unwrap().into();
    assert_eq!(ran.code, 6, "{}", ran.stderr);
    assert_eq!(node.entries()[0].len(), 5 * 1024 * 1024 + 6);
}

#[tokio::test]
async fn what_listens_may_be_no_raft() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut bytes = [0; 1024];
            let _ = stream.read(&mut bytes).await;
            let _ = stream
                .write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
                .await;
        }
    });
    let ran = run(&address.to_string(), &["--timeout", "1", "PUT", "k", "v"]).await;
    assert_eq!(ran.code, 14, "{}", ran.stderr);
    assert!(ran.stderr.contains(&address.to_string()), "{}", ran.stderr);
    serving.abort();
}
