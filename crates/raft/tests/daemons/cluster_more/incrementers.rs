//! Clients that increment counters which they share, and a ledger of what they were told.
//!
//! Some speak the protocol themselves: an increment is sent until it is acknowledged, always as the
//! same sequence of the same session, through any node and often through two at once. Now and then one
//! of them dies in the middle of a call, its connections with it; what it had sent last is *unknown*.
//! Others use the client's library as it is, and take it at its word: what it calls unknown is unknown,
//! and any other failure means that it was never done.
//!
//! An increment is answered with the sum, so the answers alone tell much: no two may be the same, and
//! one that was begun after another's answer must be higher.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use raft_client::{Client, ClientError, Options, parse_endpoints};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tonic::Status;
use tonic::transport::Channel;
use wire::raft::raft_client::RaftClient;
use wire::raft::{self as pb, ErrorKind, PutEntryReply, ResultKind};
use wire::status::detail_of;

use super::calls::{ANSWER_MS, await_all, client, in_time};

/// Between two attempts at the same increment.
const RETRY: Duration = Duration::from_millis(5);

/// One increment in so many is a client's last one, and the client lives on for so many microseconds at
/// the most: an answer takes longer as a rule.
const LAST_ONE_IN: u32 = 40;
const DEATH_US: u64 = 4000;

/// For one call of the library: with a node down it sometimes runs out.
const LIBRARY_TIMEOUT: Duration = Duration::from_secs(1);

/// So that the answers that are compared stay few.
const PAUSE: Duration = Duration::from_millis(1);

/// What is known of one counter.
#[derive(Clone, Debug, Default)]
pub struct Counter {
    /// The sums of all increments that were acknowledged.
    pub sums: BTreeSet<i64>,
    /// Increments of which nobody knows.
    pub unknown: u64,
}

/// What the clients were told.
#[derive(Default)]
pub struct Ledger {
    /// Each counter.
    pub counters: Vec<Counter>,
    /// Answers that no correct cluster gives.
    pub wrong: Vec<String>,
    /// Attempts that came to nothing.
    pub refused: u64,
    /// Clients that died in the middle of a call.
    pub deaths: u64,
    /// What the library called not done.
    pub not_done: u64,
}

impl Ledger {
    /// Increments that were acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.counters.iter().map(|one| one.sums.len() as u64).sum()
    }

    /// Increments of which nobody knows.
    pub fn unknown(&self) -> u64 {
        self.counters.iter().map(|counter| counter.unknown).sum()
    }

    /// What is wrong with these values of the counters, which somebody has in the end.
    pub fn wrong_values(&self, values: &[i64]) -> Vec<String> {
        let mut wrong = Vec::new();
        for (number, (counter, value)) in self.counters.iter().zip(values).enumerate() {
            let (least, unknown) = (counter.sums.len() as i64, counter.unknown as i64);
            if !(least..=least + unknown).contains(value) {
                wrong.push(format!(
                    "counter {number} is {value}, after {least} acknowledged and {unknown} unknown \
                     increments"
                ));
            }
            let highest = counter.sums.last().copied().unwrap_or_default();
            if highest > *value {
                wrong.push(format!(
                    "counter {number} is {value}, and an increment was answered with {highest}"
                ));
            }
        }
        wrong
    }

    /// A client died in the middle of an increment.
    fn died(&mut self, counter: usize) {
        self.counters[counter].unknown += 1;
        self.deaths += 1;
    }

    fn highest(&self, counter: usize) -> i64 {
        let sums = &self.counters[counter].sums;
        sums.last().copied().unwrap_or_default()
    }

    /// An increment was acknowledged that was begun when `before` was the highest sum known.
    fn acknowledge(&mut self, counter: usize, before: i64, reply: &PutEntryReply) {
        let sum = std::str::from_utf8(&reply.data).ok();
        let sum = sum.and_then(|sum| sum.parse().ok());
        match (reply.kind(), sum) {
            (ResultKind::Ok, Some(sum)) if sum > before => {
                if !self.counters[counter].sums.insert(sum) {
                    self.wrong
                        .push(format!("two increments made counter {counter} {sum}"));
                }
            }
            _ => self.wrong.push(format!(
                "an increment of counter {counter}, begun when it was {before}, was answered with {reply:?}"
            )),
        }
    }
}

/// How the counter of that number is called.
pub fn key(counter: usize) -> String {
    format!("counter-{counter}")
}

/// How many of what.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Counters, which all clients share.
    pub counters: usize,
    /// Clients that speak the protocol themselves, and die.
    pub mortals: usize,
    /// Clients of the library.
    pub library: usize,
    /// Of what the clients do; not of how they interleave.
    pub seed: u64,
}

/// See the module. Dropping it ends the clients where they stand.
pub struct Incrementers {
    runtime: Runtime,
    ledger: Arc<Mutex<Ledger>>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Incrementers {
    /// Starts the clients.
    pub fn start(plan: Plan, addresses: &[SocketAddr]) -> Incrementers {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let ledger = Arc::new(Mutex::new(Ledger {
            counters: vec![Counter::default(); plan.counters],
            ..Ledger::default()
        }));
        let stop = watch::channel(false).0;
        let mut tasks = JoinSet::new();
        for number in 0..plan.mortals + plan.library {
            let one = One {
                random: StdRng::seed_from_u64(plan.seed.wrapping_add(1 + number as u64)),
                addresses: addresses.to_vec(),
                counters: plan.counters,
                ledger: ledger.clone(),
                stop: stop.subscribe(),
            };
            if number < plan.mortals {
                tasks.spawn_on(one.live_again_and_again(), runtime.handle());
            } else {
                tasks.spawn_on(one.use_the_library(), runtime.handle());
            }
        }
        Incrementers {
            runtime,
            ledger,
            stop,
            tasks,
        }
    }

    /// What they were told so far.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap()
    }

    /// No new increments; waits until every client has the answer that it waits for.
    pub fn finish(&mut self, within: Duration) {
        self.stop.send_replace(true);
        await_all(&self.runtime, &mut self.tasks, within);
    }
}

/// One client at a time, life after life.
struct One {
    random: StdRng,
    addresses: Vec<SocketAddr>,
    counters: usize,
    ledger: Arc<Mutex<Ledger>>,
    stop: watch::Receiver<bool>,
}

impl One {
    fn stopped(&self) -> bool {
        *self.stop.borrow()
    }

    /// Draws a counter; and tells the highest sum of it that anybody knows.
    fn begin(&mut self) -> (usize, i64) {
        let counter = self.random.random_range(0..self.counters);
        (counter, self.ledger.lock().unwrap().highest(counter))
    }

    async fn live_again_and_again(mut self) {
        while !self.stopped() {
            // Connections of its own, which end with it.
            let nodes: Vec<RaftClient<Channel>> =
                self.addresses.iter().map(|at| client(*at)).collect();
            self.live(nodes).await;
        }
    }

    async fn live(&mut self, nodes: Vec<RaftClient<Channel>>) {
        let Some(session) = self.register(&nodes).await else {
            return;
        };
        for sequence in 1.. {
            if self.stopped() {
                return;
            }
            let (counter, before) = self.begin();
            let last = self.random.random_ratio(1, LAST_ONE_IN);
            let death = Duration::from_micros(self.random.random_range(0..DEATH_US));
            let putting = self.put(&nodes, session, sequence, counter);
            let reply = if last {
                timeout(death, putting).await.ok()
            } else {
                Some(putting.await)
            };
            let Some(reply) = reply else {
                return self.ledger.lock().unwrap().died(counter);
            };
            self.note_reply(counter, before, &reply);
            sleep(PAUSE).await;
        }
    }

    /// A session that was opened without an answer is never used; nobody minds.
    async fn register(&mut self, nodes: &[RaftClient<Channel>]) -> Option<u64> {
        while !self.stopped() {
            let request = pb::RegisterSessionRequest {
                timeout_ms: ANSWER_MS,
                ..Default::default()
            };
            let mut node = self.any(nodes);
            if let Ok(reply) = in_time(node.register_session(request)).await {
                return Some(reply.session);
            }
            sleep(RETRY).await;
        }
        None
    }

    fn any(&mut self, nodes: &[RaftClient<Channel>]) -> RaftClient<Channel> {
        nodes[self.random.random_range(0..nodes.len())].clone()
    }

    /// Sends one increment until it is acknowledged.
    async fn put(
        &mut self,
        nodes: &[RaftClient<Channel>],
        session: u64,
        sequence: u64,
        counter: usize,
    ) -> PutEntryReply {
        let request = pb::PutEntryRequest {
            entry: format!("INCR {}", key(counter)).into(),
            session,
            sequence,
            acked_below: sequence,
            timeout_ms: ANSWER_MS,
            ..pb::PutEntryRequest::default()
        };
        loop {
            let (mut one, mut other) = (self.any(nodes), self.any(nodes));
            let answers = if self.random.random_bool(0.3) {
                let both = tokio::join!(
                    in_time(one.put_entry(request.clone())),
                    in_time(other.put_entry(request.clone()))
                );
                vec![both.0, both.1]
            } else {
                vec![in_time(one.put_entry(request.clone())).await]
            };
            if let Some(reply) = self.note(&request, answers) {
                return reply;
            }
            sleep(RETRY).await;
        }
    }

    /// Writes the failures down; and gives the reply, if there is one.
    fn note(
        &self,
        request: &pb::PutEntryRequest,
        answers: Vec<Result<PutEntryReply, Status>>,
    ) -> Option<PutEntryReply> {
        let (session, sequence) = (request.session, request.sequence);
        let mut ledger = self.ledger.lock().unwrap();
        let mut found: Option<PutEntryReply> = None;
        for answer in answers {
            match answer {
                Ok(reply) => {
                    // Two copies of one request have one outcome.
                    let same = |first: &PutEntryReply| {
                        (first.kind, &first.data) == (reply.kind, &reply.data)
                    };
                    if found.as_ref().is_some_and(|first| !same(first)) {
                        ledger.wrong.push(format!(
                            "({session}, {sequence}) was answered with {found:?} and with {reply:?}"
                        ));
                    }
                    found = Some(reply);
                }
                Err(status) => {
                    ledger.refused += 1;
                    // The session was acknowledged, and no later sequence was ever sent.
                    if let Some(ErrorKind::SessionExpired | ErrorKind::StaleSequence) =
                        detail_of(&status).map(|detail| detail.kind())
                    {
                        ledger
                            .wrong
                            .push(format!("({session}, {sequence}) was refused: {status}"));
                    }
                }
            }
        }
        found
    }

    async fn use_the_library(mut self) {
        let addresses: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        let options = Options {
            endpoints: parse_endpoints(&addresses.join(",")).unwrap(),
            timeout: LIBRARY_TIMEOUT,
        };
        let mut client = Client::new(options);
        while !self.stopped() {
            let (counter, before) = self.begin();
            let entry = format!("INCR {}", key(counter));
            let outcome = client.put_entry(entry.into()).await;
            self.note_outcome(counter, before, outcome);
            sleep(PAUSE).await;
        }
    }

    fn note_reply(&self, counter: usize, before: i64, reply: &PutEntryReply) {
        let mut ledger = self.ledger.lock().unwrap();
        ledger.acknowledge(counter, before, reply);
    }

    /// What the library has to say of one increment.
    fn note_outcome(
        &self,
        counter: usize,
        before: i64,
        outcome: Result<PutEntryReply, ClientError>,
    ) {
        let mut ledger = self.ledger.lock().unwrap();
        match outcome {
            Ok(reply) => ledger.acknowledge(counter, before, &reply),
            Err(ClientError::OutcomeUnknown(_)) => ledger.counters[counter].unknown += 1,
            Err(ClientError::SessionExpired(sentence)) => ledger.wrong.push(sentence),
            // "It was not appended, and never will be."
            Err(_) => ledger.not_done += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(sums: &[i64], unknown: u64) -> Ledger {
        Ledger {
            counters: vec![Counter {
                sums: sums.iter().copied().collect(),
                unknown,
            }],
            ..Ledger::default()
        }
    }

    #[test]
    fn a_value_is_at_least_what_was_acknowledged_and_at_most_with_what_is_unknown() {
        for (value, right) in [(2, false), (3, true), (5, true), (6, false)] {
            let wrong = ledger(&[1, 2, 3], 2).wrong_values(&[value]);
            assert_eq!(wrong.is_empty(), right, "{value}: {wrong:?}");
        }
        // Two acknowledged ones and the one between them: a value below the highest sum was rolled back.
        let wrong = ledger(&[1, 3], 1).wrong_values(&[2]);
        assert_eq!(wrong.len(), 1, "{wrong:?}");
    }

    #[test]
    fn a_sum_that_comes_twice_or_does_not_grow_is_noticed() {
        let reply = |sum: &'static str| PutEntryReply {
            kind: ResultKind::Ok.into(),
            data: sum.into(),
            ..PutEntryReply::default()
        };
        for (before, sum, wrong) in [(3, "4", 0), (0, "3", 1), (3, "3", 1), (0, "x", 1)] {
            let mut ledger = ledger(&[1, 2, 3], 0);
            ledger.acknowledge(0, before, &reply(sum));
            assert_eq!(ledger.wrong.len(), wrong, "{before}, {sum}");
        }
    }
}
