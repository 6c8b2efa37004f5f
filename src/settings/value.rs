//! Values of the nine types of Kafka's `ConfigDef`: parsing, rendering and validation, with Kafka's
//! messages.

use crate::ConfigError;
use crate::describe::ValueType;

/// A parsed value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Bool(bool),
    Int(i32),
    Short(i16),
    Long(i64),
    Double(f64),
    /// String, class and password.
    Text(String),
    List(Vec<String>),
}

impl Value {
    /// Parses as `ConfigDef.parseType` does.
    pub(crate) fn parse(name: &str, text: &str, kind: ValueType) -> Result<Self, ConfigError> {
        let trimmed = text.trim();
        let nan =
            |kind: &str| ConfigError::invalid(name, text, format!("Not a number of type {kind}"));
        Ok(match kind {
            ValueType::Boolean if trimmed.eq_ignore_ascii_case("true") => Self::Bool(true),
            ValueType::Boolean if trimmed.eq_ignore_ascii_case("false") => Self::Bool(false),
            ValueType::Boolean => {
                let reason = "Expected value to be either true or false";
                return Err(ConfigError::invalid(name, text, reason));
            }
            ValueType::Int => Self::Int(trimmed.parse().map_err(|_| nan("INT"))?),
            ValueType::Short => Self::Short(trimmed.parse().map_err(|_| nan("SHORT"))?),
            ValueType::Long => Self::Long(trimmed.parse().map_err(|_| nan("LONG"))?),
            ValueType::Double => Self::Double(trimmed.parse().map_err(|_| nan("DOUBLE"))?),
            ValueType::List if trimmed.is_empty() => Self::List(Vec::new()),
            ValueType::List => {
                Self::List(trimmed.split(',').map(|s| s.trim().to_owned()).collect())
            }
            ValueType::String | ValueType::Class | ValueType::Password | ValueType::Unknown => {
                Self::Text(trimmed.to_owned())
            }
        })
    }

    /// As `ConfigDef.convertToString` writes it.
    pub(crate) fn render(&self) -> String {
        match self {
            Self::Bool(b) => b.to_string(),
            Self::Int(n) => n.to_string(),
            Self::Short(n) => n.to_string(),
            Self::Long(n) => n.to_string(),
            Self::Double(x) => java_double(*x),
            Self::Text(s) => s.clone(),
            Self::List(items) => items.join(","),
        }
    }

    fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Int(n) => Some(f64::from(*n)),
            Self::Short(n) => Some(f64::from(*n)),
            Self::Long(n) => Some(*n as f64),
            Self::Double(x) => Some(*x),
            _ => None,
        }
    }

    fn items(&self) -> &[String] {
        match self {
            Self::List(items) => items,
            _ => &[],
        }
    }
}

/// `Double.toString`: decimal between 10^-3 and 10^7, otherwise with an exponent, always with a
/// fraction.
fn java_double(x: f64) -> String {
    if x == 0.0 || (1e-3..1e7).contains(&x.abs()) {
        return format!("{x:?}");
    }
    let text = format!("{x:E}");
    match text.split_once('E') {
        Some((mantissa, exponent)) if !mantissa.contains('.') => format!("{mantissa}.0E{exponent}"),
        _ => text,
    }
}

/// What a value is allowed to be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Validator {
    Any,
    /// Bounds included. Every bound of Kafka's table is exact in an f64 except i64::MAX, which no
    /// table uses.
    Range {
        min: f64,
        max: Option<f64>,
    },
    OneOf {
        values: Vec<&'static str>,
        ignore_case: bool,
    },
    List {
        values: Vec<&'static str>,
        empty: bool,
        null: bool,
    },
    NonEmpty,
    NonNull,
    GzipLevel,
    ThrottledReplicas,
    Voters,
    BootstrapServers,
    ShareReset,
}

impl Validator {
    /// From the table's notation.
    pub(crate) fn from_table(text: &'static str) -> Option<Self> {
        let mut words = text.split(' ');
        let word = words.next()?;
        let arg = words.next().unwrap_or("");
        let values = |s: &'static str| s.split('|').filter(|v| !v.is_empty()).collect();
        Some(match word {
            "-" => Self::Any,
            "range" => Self::Range {
                min: arg.parse().ok()?,
                max: words.next()?.parse().ok(),
            },
            "one" | "onei" => Self::OneOf {
                values: values(arg),
                ignore_case: word == "onei",
            },
            "list" => Self::List {
                values: values(words.next().unwrap_or("")),
                empty: arg.contains('e'),
                null: arg.contains('n'),
            },
            "nonempty" => Self::NonEmpty,
            "nonnull" => Self::NonNull,
            "gzip" => Self::GzipLevel,
            "throttled" => Self::ThrottledReplicas,
            "voters" => Self::Voters,
            "servers" => Self::BootstrapServers,
            "sharereset" => Self::ShareReset,
            _ => return None,
        })
    }

    /// Checks a parsed value.
    pub(crate) fn check(&self, name: &str, value: &Value) -> Result<(), ConfigError> {
        let refuse = |reason: String| Err(ConfigError::invalid(name, &java_value(value), reason));
        match self {
            Self::Any | Self::NonNull => Ok(()),
            Self::Range { min, max } => check_range(name, value, *min, *max),
            Self::OneOf {
                values,
                ignore_case,
            } => check_one_of(name, &value.render(), values, *ignore_case),
            Self::List { values, empty, .. } => check_list(name, value.items(), values, *empty),
            Self::NonEmpty if value.render().is_empty() => {
                refuse("String must be non-empty".to_owned())
            }
            Self::NonEmpty => Ok(()),
            Self::GzipLevel => match value {
                Value::Int(-1 | 1..=9) => Ok(()),
                Value::Int(n) if *n < 1 => refuse("Value must be at least 1 or equal to -1".into()),
                _ => refuse("Value must be no more than 9 or equal to -1".into()),
            },
            Self::ThrottledReplicas => check_throttled(name, value),
            Self::Voters => crate::listeners::parse_voters(value.items()).map(drop),
            Self::BootstrapServers => value
                .items()
                .iter()
                .try_for_each(|s| crate::listeners::parse_host_port(s).map(drop)),
            Self::ShareReset => {
                let text = value.render();
                let known = text.eq_ignore_ascii_case("earliest")
                    || text.eq_ignore_ascii_case("latest")
                    || text
                        .get(..12)
                        .is_some_and(|p| p.eq_ignore_ascii_case("by_duration:") && text.len() > 12);
                if known {
                    return Ok(());
                }
                refuse(format!(
                    "Invalid value `{text}` for configuration {name}. The value must be either \
                     'earliest', 'latest' or of the format 'by_duration:<PnDTnHnMn.nS.>'."
                ))
            }
        }
    }
}

/// The value as Java prints it in messages: lists in brackets.
fn java_value(value: &Value) -> String {
    match value {
        Value::List(items) => format!("[{}]", items.join(", ")),
        other => other.render(),
    }
}

fn check_range(name: &str, value: &Value, min: f64, max: Option<f64>) -> Result<(), ConfigError> {
    let Some(x) = value.as_f64() else {
        return Ok(());
    };
    let bound = |b: f64| match value {
        Value::Double(_) => format!("{b}"),
        _ => format!("{}", b as i64),
    };
    let refuse = |reason| Err(ConfigError::invalid(name, &value.render(), reason));
    if x < min || x.is_nan() {
        return refuse(format!("Value must be at least {}", bound(min)));
    }
    match max {
        Some(max) if x > max => refuse(format!("Value must be no more than {}", bound(max))),
        _ => Ok(()),
    }
}

fn check_one_of(
    name: &str,
    text: &str,
    values: &[&str],
    ignore_case: bool,
) -> Result<(), ConfigError> {
    let fits = |v: &&str| *v == text || (ignore_case && v.eq_ignore_ascii_case(text));
    if values.iter().any(fits) {
        return Ok(());
    }
    let how = if ignore_case {
        " (case insensitive)"
    } else {
        ""
    };
    let reason = format!("String must be one of{how}: {}", values.join(", "));
    Err(ConfigError::invalid(name, text, reason))
}

fn check_list(
    name: &str,
    items: &[String],
    values: &[&str],
    empty: bool,
) -> Result<(), ConfigError> {
    if !empty && items.is_empty() {
        let valid = if values.is_empty() {
            "any non-empty value".to_owned()
        } else {
            format!("[{}]", values.join(", "))
        };
        return Err(ConfigError::Refused(format!(
            "Configuration '{name}' must not be empty. Valid values include: {valid}"
        )));
    }
    let distinct: std::collections::BTreeSet<&String> = items.iter().collect();
    if distinct.len() != items.len() {
        return Err(ConfigError::Refused(format!(
            "Configuration '{name}' values must not be duplicated."
        )));
    }
    for item in items {
        if item.is_empty() {
            return Err(ConfigError::Refused(format!(
                "Configuration '{name}' values must not be empty."
            )));
        }
        if !values.is_empty() {
            check_one_of(name, item, values, false)?;
        }
    }
    Ok(())
}

fn check_throttled(name: &str, value: &Value) -> Result<(), ConfigError> {
    let items = value.items();
    let number = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    let pair = |s: &String| {
        s.is_empty()
            || s.split_once(':')
                .is_some_and(|(a, b)| number(a) && number(b))
    };
    if items.concat() == "*" || items.iter().all(pair) {
        return Ok(());
    }
    let reason = format!(
        "{name} must be the literal '*' or a list of replicas in the following format: \
         [partitionId]:[brokerId],[partitionId]:[brokerId],..."
    );
    Err(ConfigError::invalid(name, &java_value(value), reason))
}
