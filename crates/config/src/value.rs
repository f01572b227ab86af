//! The types that a setting can have, and how each reads from JSON and from text.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One readable line per event.
    Human,
    /// One JSON object per event.
    Json,
}

/// Something that a key of the configuration can hold.
pub trait Setting: Sized {
    /// What the value must be, to complete the sentence "must be ...".
    const WANTED: &'static str;

    /// Reads the value as it stands in the file; `None` when it is of another kind.
    fn from_json(value: &Value) -> Option<Self>;

    /// Reads the value as it stands in a flag or in the environment.
    fn from_text(text: &str) -> Option<Self>;

    /// The value as the file would hold it.
    fn to_json(&self) -> Value;
}

impl Setting for Duration {
    const WANTED: &'static str = "a whole number of milliseconds";

    fn from_json(value: &Value) -> Option<Self> {
        value.as_u64().map(Duration::from_millis)
    }

    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok().map(Duration::from_millis)
    }

    fn to_json(&self) -> Value {
        json!(u64::try_from(self.as_millis()).unwrap_or(u64::MAX))
    }
}

/// Whole numbers differ in their width alone.
macro_rules! whole_number {
    ($($type:ty),+) => {$(
        impl Setting for $type {
            const WANTED: &'static str = "a whole number";

            fn from_json(value: &Value) -> Option<Self> {
                value.as_u64().and_then(|number| number.try_into().ok())
            }

            fn from_text(text: &str) -> Option<Self> {
                text.parse().ok()
            }

            fn to_json(&self) -> Value {
                json!(self)
            }
        }
    )+};
}
whole_number!(u16, u32, u64, usize);

impl Setting for bool {
    const WANTED: &'static str = "true or false";

    fn from_json(value: &Value) -> Option<Self> {
        value.as_bool()
    }

    /// Accepts 1 and 0 too: `INTRODUCER=1` is how the original was started.
    fn from_text(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "1" | "true" | "yes" | "on" => Some(true),
            "0" | "false" | "no" | "off" => Some(false),
            _ => None,
        }
    }

    fn to_json(&self) -> Value {
        json!(self)
    }
}

impl Setting for String {
    const WANTED: &'static str = "text";

    fn from_json(value: &Value) -> Option<Self> {
        value.as_str().map(str::to_owned)
    }

    fn from_text(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }

    fn to_json(&self) -> Value {
        json!(self)
    }
}

impl Setting for PathBuf {
    const WANTED: &'static str = "a path";

    fn from_json(value: &Value) -> Option<Self> {
        value.as_str().and_then(Self::from_text)
    }

    fn from_text(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| Self::from(text))
    }

    fn to_json(&self) -> Value {
        json!(self.display().to_string())
    }
}

impl Setting for IpAddr {
    const WANTED: &'static str = "an IP address";

    fn from_json(value: &Value) -> Option<Self> {
        value.as_str().and_then(Self::from_text)
    }

    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn to_json(&self) -> Value {
        json!(self.to_string())
    }
}

/// Empty text means "none".
macro_rules! or_empty {
    ($type:ty, $wanted:literal) => {
        impl Setting for Option<$type> {
            const WANTED: &'static str = $wanted;

            fn from_json(value: &Value) -> Option<Self> {
                value.as_str().and_then(Self::from_text)
            }

            fn from_text(text: &str) -> Option<Self> {
                if text.is_empty() {
                    Some(None)
                } else {
                    <$type>::from_text(text).map(Some)
                }
            }

            fn to_json(&self) -> Value {
                self.as_ref().map_or(json!(""), Setting::to_json)
            }
        }
    };
}
or_empty!(IpAddr, "an IP address, or empty");
or_empty!(PathBuf, "a path, or empty");

impl Setting for Vec<String> {
    const WANTED: &'static str = "a list of texts";

    fn from_json(value: &Value) -> Option<Self> {
        value.as_array()?.iter().map(String::from_json).collect()
    }

    /// Commas separate; white space around an element and empty elements mean nothing.
    fn from_text(text: &str) -> Option<Self> {
        let elements = text
            .split(',')
            .map(str::trim)
            .filter(|element| !element.is_empty());
        Some(elements.map(str::to_owned).collect())
    }

    fn to_json(&self) -> Value {
        json!(self)
    }
}

impl Setting for LogFormat {
    const WANTED: &'static str = "\"human\" or \"json\"";

    fn from_json(value: &Value) -> Option<Self> {
        value.as_str().and_then(Self::from_text)
    }

    fn from_text(text: &str) -> Option<Self> {
        match text {
            "human" => Some(Self::Human),
            "json" => Some(Self::Json),
            _ => None,
        }
    }

    fn to_json(&self) -> Value {
        match self {
            Self::Human => json!("human"),
            Self::Json => json!("json"),
        }
    }
}
