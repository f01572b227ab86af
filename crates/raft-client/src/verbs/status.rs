//! `raft-client status`

use std::fmt::Write;

use clap::Args;

use super::Output;
use crate::client::Client;
use crate::error::ClientError;
use crate::exit_codes::ExitCode;
use crate::survey::{NodeRow, Survey};

/// Shows every node, each in its own words; works without a leader
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  raft-client status
  raft-client status --json")]
pub struct Status {
    /// The same as one JSON object
    #[arg(long)]
    json: bool,
}

impl Status {
    pub(super) async fn run(&self, client: &mut Client) -> Result<Output, ClientError> {
        let survey = client.status().await?;
        let text = if self.json {
            let json = serde_json::to_string_pretty(&survey);
            json.map_err(|error| ClientError::Io(error.to_string()))? + "\n"
        } else {
            table(&survey)
        };
        Ok(Output {
            stdout: text.into_bytes(),
            stderr: Vec::new(),
            code: ExitCode::Ok,
        })
    }
}

const HEADINGS: [&str; 9] = [
    "NODE", "ADDRESS", "ROLE", "TERM", "LEADER", "COMMIT", "APPLIED", "STANDING", "HEALTH",
];

fn table(survey: &Survey) -> String {
    let mut lines = vec![HEADINGS.map(str::to_owned)];
    lines.extend(survey.nodes.iter().map(cells));
    let width = |column: usize| {
        lines
            .iter()
            .map(|line| line[column].chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: [usize; 9] = std::array::from_fn(width);
    let mut text = String::new();
    for line in &lines {
        let mut row = String::new();
        for (cell, width) in line.iter().zip(widths) {
            // Writing to a String cannot fail.
            let _ = write!(row, "{cell:<width$}  ");
        }
        text.push_str(row.trim_end());
        text.push('\n');
    }
    for alarm in &survey.alarms {
        let _ = writeln!(text, "[ALARM] {alarm}");
    }
    text
}

fn cells(row: &NodeRow) -> [String; 9] {
    let or_dash = |text: &str| {
        if text.is_empty() {
            "-".to_owned()
        } else {
            text.to_owned()
        }
    };
    let number = |number: u64| {
        if row.answered {
            number.to_string()
        } else {
            "-".to_owned()
        }
    };
    [
        or_dash(&row.node),
        or_dash(&row.address),
        or_dash(&row.role),
        number(row.term),
        or_dash(&row.leader),
        number(row.commit),
        number(row.applied),
        or_dash(&row.standing),
        or_dash(&row.health),
    ]
}
