//! The schedules of the project's safety rules, as far as they concern the core: each breaks an
//! implementation that leaves the rule out.

mod durability;
mod elections;
mod founding;
mod membership;
mod plumbing;
mod reads;
mod repair;
mod sessions;
