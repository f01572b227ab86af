//! State machines in memory, each a process of its own that can be killed. They understand the verbs of
//! the key-value store, and begin with nothing whenever they are started.
//!
//! The program is this test program itself, told to run nothing but [`a_process_of_its_own`]: so it is
//! never older than the tests that start it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs::File;
use std::ops::Bound;
use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use state_machine::key_value::{self, Store, View};
use state_machine_sdk::{Entry, Listen, Outcome, StateMachine, Volatile};

use crate::cluster::{Cluster, Process};

/// Set for the processes that are state machines.
const MARK: &str = "LEEKY_TEST_VOLATILE";

/// Keys and values, and nothing on any disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Memory(BTreeMap<Bytes, Bytes>);

impl Store for Memory {
    type Error = Infallible;

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Infallible> {
        Ok(self.0.get(key).cloned())
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Infallible> {
        let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
        self.0.insert(key, value);
        Ok(())
    }

    fn delete(&mut self, key: &[u8]) -> Result<bool, Infallible> {
        Ok(self.0.remove(key).is_some())
    }
}

impl View for Memory {
    type Error = Infallible;

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Infallible> {
        Ok(self.0.get(key).cloned())
    }

    fn keys(
        &self,
        from: Bound<&[u8]>,
        visit: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<(), Infallible> {
        let mut keys = self.0.range::<[u8], _>((from, Bound::Unbounded));
        while let Some((key, _)) = keys.next()
            && visit(key)
        {}
        Ok(())
    }
}

impl StateMachine for Memory {
    fn name(&self) -> &str {
        "memory"
    }

    fn execute(&mut self, _: &Entry, command: &[u8]) -> Outcome {
        let Ok(outcome) = key_value::execute(self, command);
        outcome
    }

    fn query(&self, query: &[u8]) -> Outcome {
        let Ok(outcome) = key_value::query(self, query);
        outcome
    }

    fn snapshot_formats(&self) -> &'static [&'static str] {
        &["pairs-1"]
    }

    fn snapshot(&self) -> Vec<u8> {
        let pairs: Vec<(&[u8], &[u8])> = self.0.iter().map(|(k, v)| (&**k, &**v)).collect();
        serde_json::to_vec(&pairs).unwrap()
    }

    fn restore(&self, _: &str, bytes: &[u8]) -> Result<Memory, String> {
        let pairs: Vec<(Vec<u8>, Vec<u8>)> =
            serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let owned = pairs.into_iter().map(|(k, v)| (k.into(), v.into()));
        Ok(Memory(owned.collect()))
    }
}

#[test]
#[ignore = "no test: the state machine that tests start as a process"]
fn a_process_of_its_own() {
    if std::env::var_os(MARK).is_none() {
        return;
    }
    let listen = Listen::from_environment().unwrap();
    state_machine_sdk::run(Volatile::new(Memory::default()), listen).unwrap();
}

#[test]
fn what_is_written_down_is_read_back() {
    let mut memory = Memory::default();
    for (key, value) in [("a", "1"), ("b", ""), ("c", "three words \u{fc}")] {
        let Ok(()) = memory.put(key.as_bytes(), value.as_bytes());
    }
    let again = Memory::default().restore("pairs-1", &memory.snapshot());
    assert_eq!(again, Ok(memory));
}

/// One beside each node, as far as they run. Dropping it kills them.
#[derive(Default)]
pub struct Machines {
    children: BTreeMap<usize, Child>,
}

impl Machines {
    /// Starts the one of a node, empty.
    pub fn start(&mut self, cluster: &Cluster, node: usize) {
        let file = cluster.folder().join(format!("n{node}.memory.log"));
        let log = || File::options().create(true).append(true).open(&file);
        // The environment of the node's own state machine, but another program.
        let usual = cluster.command(node, Process::StateMachine);
        let mut command = Command::new(std::env::current_exe().unwrap());
        for (name, value) in usual.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let this = concat!(module_path!(), "::a_process_of_its_own");
        let this = this.split_once("::").unwrap().1;
        let child = command
            .env(MARK, "1")
            .args(["--exact", this, "--ignored", "--nocapture"])
            .stdin(Stdio::null())
            .stdout(log().unwrap())
            .stderr(log().unwrap())
            .spawn()
            .unwrap();
        let before = self.children.insert(node, child);
        assert!(before.is_none(), "node {node} has a state machine already");
    }

    /// `kill -9`.
    pub fn kill(&mut self, node: usize) {
        if let Some(mut child) = self.children.remove(&node) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Whether it runs.
    pub fn runs(&mut self, node: usize) -> bool {
        let child = self.children.get_mut(&node);
        child.is_some_and(|child| child.try_wait().unwrap().is_none())
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        let nodes: Vec<usize> = self.children.keys().copied().collect();
        for node in nodes {
            self.kill(node);
        }
    }
}
