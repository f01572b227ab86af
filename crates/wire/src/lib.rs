//! The words that Leeky Raft's processes say to each other, generated from `proto/`.
//!
//! Only the daemons and the command line know these types. The cores never see them: a daemon's
//! `convert` module turns them into core types and refuses what is out of bounds. How the words get onto a
//! connection is theirs to share too: [`gather`].

/// The membership daemon's service: who is there, at which address, how healthy.
#[allow(missing_docs, unused_qualifications, clippy::all)]
pub mod member {
    tonic::include_proto!("leeky.member.v1");
}

/// The raft daemon's services, for clients and for the other daemons.
#[allow(missing_docs, unused_qualifications, clippy::all)]
pub mod raft {
    tonic::include_proto!("leeky.raft.v1");
}

/// The contract with a state machine in any language.
#[allow(missing_docs, unused_qualifications, clippy::all)]
pub mod state_machine {
    tonic::include_proto!("leeky.state_machine.v1");
}

mod ids;
pub use ids::{BadId, id_bytes, id_from_bytes, optional_id_from_bytes};

mod local;
pub use local::is_local;

pub mod gather;
pub mod status;
