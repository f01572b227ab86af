//! `sim explore`: every schedule of a small cluster, within bounds.

use anyhow::{anyhow, bail};
use clap::Args;
use sim::explore::{Bounds, explore};

/// See the module.
#[derive(Args)]
pub struct Arguments {
    /// Stops at so many distinct states of each.
    #[arg(long, default_value_t = 1_000_000)]
    states: usize,
    /// Changes a bound, as in `--set campaigns=3`.
    #[arg(long, value_name = "BOUND=NUMBER")]
    set: Vec<String>,
    /// Which bounds; all of them if none are named.
    names: Vec<String>,
}

/// Explores, and says what was found.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let all = Bounds::all();
    let known: Vec<_> = all.iter().map(|bounds| bounds.name).collect();
    if let Some(name) = arguments
        .names
        .iter()
        .find(|name| !known.contains(&name.as_str()))
    {
        bail!("there are no bounds {name}; there are {}", known.join(", "));
    }
    let wanted = |bounds: &&Bounds| {
        let names = &arguments.names;
        names.is_empty() || names.iter().any(|name| name == bounds.name)
    };
    let mut broken = Vec::new();
    for bounds in all.iter().filter(wanted) {
        let mut bounds = bounds.clone().with_states(arguments.states);
        for change in &arguments.set {
            let (name, value) = change
                .split_once('=')
                .ok_or_else(|| anyhow!("{change}: a bound is changed as in campaigns=3"))?;
            bounds = bounds.with(name, value).map_err(|wrong| anyhow!(wrong))?;
        }
        let report = explore(&bounds);
        println!("{report}");
        if report.violation.is_some() {
            broken.push(bounds.name);
        }
    }
    if !broken.is_empty() {
        bail!("properties are broken within {}", broken.join(", "));
    }
    Ok(())
}
