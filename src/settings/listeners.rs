//! `listeners`, `advertised.listeners`, `listener.security.protocol.map`, voters and addresses.

use crate::broker::{Listener, Voter};
use crate::view::View;
use crate::{ConfigError, ConfigMap};
use std::collections::{BTreeMap, BTreeSet};

/// What the listener keys say together.
pub(crate) struct Listeners {
    pub(crate) listeners: Vec<Listener>,
    pub(crate) advertised: Vec<Listener>,
    pub(crate) controller_names: Vec<String>,
    pub(crate) inter_broker_name: String,
}

fn refused(text: String) -> ConfigError {
    ConfigError::Refused(text)
}

/// Reads and checks every listener key.
pub(crate) fn load(
    view: &View<'_>,
    voters: &[Voter],
    node_id: i32,
) -> Result<Listeners, ConfigError> {
    let controller_names = view.list("controller.listener.names")?;
    let texts = view.list("listeners")?;
    let protocols = protocol_map(view, &controller_names, &texts)?;
    let mut listeners = parse_listeners(&texts, &controller_names)?;
    distinct(&texts, &listeners, true)?;
    for listener in &mut listeners {
        require_plaintext(&protocols, &listener.name)?;
    }
    let inter_broker_name = inter_broker_name(view, &protocols)?;
    let advertised = match view.opt_list("advertised.listeners")? {
        Some(texts) => {
            let given = parse_listeners(&texts, &controller_names)?;
            distinct(&texts, &given, false)?;
            advertise(&listeners, &given)?
        }
        None => listeners.clone(),
    };
    let advertised = advertised
        .into_iter()
        .map(|l| controller_address(l, voters, node_id))
        .collect();
    Ok(Listeners {
        listeners,
        advertised,
        controller_names,
        inter_broker_name,
    })
}

/// `NAME://host:port` entries; the host may be empty or an IPv6 address in brackets.
fn parse_listeners(texts: &[String], controllers: &[String]) -> Result<Vec<Listener>, ConfigError> {
    texts
        .iter()
        .map(|text| {
            let bad = || refused(format!("Unable to parse {text} to a broker endpoint"));
            let (name, address) = text.split_once("://").ok_or_else(bad)?;
            let (host, port) = address.rsplit_once(':').ok_or_else(bad)?;
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let name = name.trim().to_ascii_uppercase();
            if name.is_empty() || host.contains('/') {
                return Err(bad());
            }
            Ok(Listener {
                controller: controllers.iter().any(|c| c.eq_ignore_ascii_case(&name)),
                name,
                host: host.to_owned(),
                port: port.trim().parse().map_err(|_| bad())?,
            })
        })
        .collect()
}

/// No two listeners share a name or (but for an IPv4 and an IPv6 host, and port 0) a port.
fn distinct(texts: &[String], listeners: &[Listener], ports: bool) -> Result<(), ConfigError> {
    let names: BTreeSet<&str> = listeners.iter().map(|l| l.name.as_str()).collect();
    let shown = texts.join(",");
    if names.len() != listeners.len() {
        return Err(refused(format!(
            "Each listener must have a different name, listeners: [{shown}]"
        )));
    }
    if !ports {
        return Ok(());
    }
    let mut by_port: BTreeMap<u16, Vec<&Listener>> = BTreeMap::new();
    for listener in listeners.iter().filter(|l| l.port != 0) {
        by_port.entry(listener.port).or_default().push(listener);
    }
    for (port, same) in by_port {
        let v6 = same.iter().filter(|l| l.host.contains(':')).count();
        if same.len() > 2 || (same.len() == 2 && v6 != 1) {
            return Err(refused(format!(
                "Each listener must have a different port unless exactly one listener has an IPv4 \
                 address and the other IPv6 address, listeners: [{shown}], port: {port}"
            )));
        }
    }
    Ok(())
}

/// `listener.security.protocol.map`; unless it is set, controller listeners are PLAINTEXT too.
fn protocol_map(
    view: &View<'_>,
    controllers: &[String],
    listeners: &[String],
) -> Result<ConfigMap, ConfigError> {
    let key = "listener.security.protocol.map";
    let mut map = ConfigMap::new();
    let text = view.text(key)?;
    for entry in text.split(',').map(str::trim).filter(|e| !e.is_empty()) {
        let (name, protocol) = entry.rsplit_once(':').ok_or_else(|| {
            refused(format!(
                "Error parsing configuration property '{key}': {entry}"
            ))
        })?;
        let protocol = protocol.trim().to_ascii_uppercase();
        if !matches!(
            protocol.as_str(),
            "PLAINTEXT" | "SSL" | "SASL_PLAINTEXT" | "SASL_SSL"
        ) {
            return Err(refused(format!(
                "Invalid security protocol `{protocol}` defined in {key}"
            )));
        }
        map.insert(name.trim().to_ascii_uppercase(), protocol);
    }
    let secure = |name: &str| matches!(name, "SSL" | "SASL_SSL" | "SASL_PLAINTEXT");
    let any_secure = controllers.iter().any(|c| secure(c))
        || listeners
            .iter()
            .any(|l| secure(l.split(':').next().unwrap_or("")));
    if view.set(key).is_none() && !any_secure {
        for name in controllers.iter().filter(|c| *c != "PLAINTEXT") {
            map.insert(name.to_ascii_uppercase(), "PLAINTEXT".to_owned());
        }
    }
    Ok(map)
}

fn require_plaintext(protocols: &ConfigMap, name: &str) -> Result<(), ConfigError> {
    match protocols.get(name).map(String::as_str) {
        Some("PLAINTEXT") => Ok(()),
        Some(protocol) => Err(ConfigError::Unprotected {
            name: format!("listener {name}"),
            value: protocol.to_owned(),
            what: "TLS and SASL",
        }),
        None => Err(refused(format!(
            "No security protocol defined for listener {name}"
        ))),
    }
}

fn inter_broker_name(view: &View<'_>, protocols: &ConfigMap) -> Result<String, ConfigError> {
    let (key, other) = (
        "inter.broker.listener.name",
        "security.inter.broker.protocol",
    );
    let Some(name) = view.opt_text(key)? else {
        let protocol = view.text(other)?;
        if protocol != "PLAINTEXT" {
            return Err(ConfigError::Unprotected {
                name: other.to_owned(),
                value: protocol,
                what: "TLS and SASL",
            });
        }
        return Ok(protocol);
    };
    if view.set(other).is_some() {
        return Err(refused(format!(
            "Only one of {key} and {other} should be set."
        )));
    }
    let name = name.to_ascii_uppercase();
    if !protocols.contains_key(&name) {
        return Err(refused(format!(
            "Listener with name {name} defined in {key} not found in \
             listener.security.protocol.map."
        )));
    }
    Ok(name)
}

/// One address per listener: the advertised one, or its own where none is advertised.
fn advertise(listeners: &[Listener], given: &[Listener]) -> Result<Vec<Listener>, ConfigError> {
    if let Some(unknown) = given
        .iter()
        .find(|g| !listeners.iter().any(|l| l.name == g.name))
    {
        let valid: Vec<&str> = listeners.iter().map(|l| l.name.as_str()).collect();
        return Err(refused(format!(
            "advertised.listeners listener names must be equal to or a subset of the ones defined \
             in listeners. Found {}. The valid options based on the current configuration are {}",
            unknown.name,
            valid.join(",")
        )));
    }
    let advertised = |l: &Listener| given.iter().find(|g| g.name == l.name).unwrap_or(l).clone();
    Ok(listeners.iter().map(advertised).collect())
}

/// A controller listener on every interface is advertised where the voters' list says this node is.
fn controller_address(mut listener: Listener, voters: &[Voter], node_id: i32) -> Listener {
    if listener.controller && (listener.host.is_empty() || listener.host == "0.0.0.0") {
        match voters.iter().find(|v| v.node_id == node_id) {
            Some(own) => {
                listener.host.clone_from(&own.host);
                listener.port = own.port;
            }
            None => listener.host.clear(),
        }
    }
    listener
}

/// `controller.quorum.voters`: `id@host:port` entries.
pub(crate) fn parse_voters(items: &[String]) -> Result<Vec<Voter>, ConfigError> {
    items
        .iter()
        .map(|item| {
            let bad = |why: &str| {
                refused(format!(
                    "Invalid value {item} for configuration controller.quorum.voters: {why}"
                ))
            };
            let (id, address) = item
                .split_once('@')
                .ok_or_else(|| bad("Each entry should be in the form `{id}@{host}:{port}`."))?;
            let node_id = id
                .parse()
                .map_err(|_| bad(&format!("Failed to parse voter ID as an integer from {id}")))?;
            let (host, port) = parse_host_port(address)
                .map_err(|_| bad("Each entry should be in the form `{id}@{host}:{port}`."))?;
            Ok(Voter {
                node_id,
                host,
                port,
            })
        })
        .collect()
}

/// `host:port`, the host perhaps in brackets.
pub(crate) fn parse_host_port(text: &str) -> Result<(String, u16), ConfigError> {
    let bad = || refused(format!("Invalid url in bootstrap.servers: {text}"));
    let (host, port) = text.trim().rsplit_once(':').ok_or_else(bad)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() {
        return Err(bad());
    }
    Ok((host.to_owned(), port.parse().map_err(|_| bad())?))
}
