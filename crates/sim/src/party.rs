//! Who takes part in a world: nodes, and clients of theirs.

use crate::client::Client;
use crate::node::message::Wire;
use crate::node::{Server, Task};
use crate::world::{Event, Host, Micros, Node};

/// One of them.
pub enum Party {
    /// A node.
    Server(Box<Server>),
    /// A client.
    Client(Box<Client>),
}

impl Node for Party {
    type Message = Wire;
    type Task = Task;

    fn happen(&mut self, event: Event<Wire, Task>, host: &mut Host<'_, Party>) {
        match self {
            Party::Server(server) => server.happen(event, host),
            Party::Client(client) => client.happen(event, host),
        }
    }

    fn deadline(&self) -> Micros {
        match self {
            Party::Server(server) => server.deadline(),
            Party::Client(_) => Micros::MAX,
        }
    }
}

impl Party {
    /// The node; none for a client.
    pub fn server(&self) -> Option<&Server> {
        match self {
            Party::Server(server) => Some(server),
            Party::Client(_) => None,
        }
    }

    /// The node, to be changed.
    pub fn server_mut(&mut self) -> Option<&mut Server> {
        match self {
            Party::Server(server) => Some(server),
            Party::Client(_) => None,
        }
    }

    /// The client; none for a node.
    pub fn client(&self) -> Option<&Client> {
        match self {
            Party::Client(client) => Some(client),
            Party::Server(_) => None,
        }
    }

    /// The client, to be changed.
    pub fn client_mut(&mut self) -> Option<&mut Client> {
        match self {
            Party::Client(client) => Some(client),
            Party::Server(_) => None,
        }
    }
}
