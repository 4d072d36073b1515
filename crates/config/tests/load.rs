//! Files on disk: the example of the design, defaults, and paths.

use serin_config::{AdminListen, Config, Cores, Environment, FILE_BYTES_MAX, Store};
use std::{fs, path::Path, time::Duration};

const EXAMPLE: &str = "\
# serin.yaml
environment: production
gateway: { listen: 0.0.0.0:8080, hosts: [mcp.example.com] }
admin: { listen: 127.0.0.1:9090 }
store: sqlite:serin.db
services:
  tools:
    protocol: mcp
    path: /mcp
    stable: v1.5.0
    versions:
      v1.5.0: { endpoints: [http://127.0.0.1:9001/mcp] }
      v2.0.0: { endpoints: [http://127.0.0.1:9002/mcp] }
";

#[test]
fn the_example_is_read_and_its_paths_start_from_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("serin.yaml");
    fs::write(&file, EXAMPLE).unwrap();
    let checked = Config::load(&file).unwrap();
    assert!(checked.warnings.is_empty());
    let config = checked.value;
    assert_eq!(config.environment, Environment::Production);
    assert_eq!(config.gateway.listen.to_string(), "0.0.0.0:8080");
    assert_eq!(config.store, Store::Sqlite(folder.path().join("serin.db")));
    assert_eq!(
        config.admin.token_file,
        folder.path().join("serin.db.token")
    );
    assert_eq!(config.manifest.services.len(), 1);
}

#[test]
fn every_interface_without_a_name_is_doubted() {
    let service = "services: { tools: { protocol: mcp, path: /mcp, hosts: [a.example], stable: v1, versions: { v1: { endpoints: [http://127.0.0.1:1/mcp] } } } }";
    for (text, is_odd) in [
        ("gateway: { listen: 0.0.0.0:8080 }", true),
        ("gateway: { listen: '[::]:8080' }", true),
        (
            "gateway: { listen: 0.0.0.0:8080, hosts: [a.example] }",
            false,
        ),
        ("gateway: { listen: 10.0.0.5:8080 }", false),
    ] {
        let read = |text: &str| Config::parse(text, "serin.yaml").unwrap().warnings;
        let warnings = read(text);
        assert_eq!(warnings.len(), usize::from(is_odd), "{text}: {warnings:?}");
        assert!(warnings.iter().all(|odd| odd.help.contains("`hosts: [")));
        assert!(read(&format!("{text}\n{service}")).is_empty());
    }
}

#[test]
fn an_empty_file_means_the_defaults() {
    for text in ["", "# nothing yet\n", "{}", "gateway:\nadmin:\n"] {
        let config = Config::parse(text, "serin.yaml").unwrap().value;
        assert_eq!(config.environment, Environment::Development);
        assert_eq!(config.gateway.listen.to_string(), "127.0.0.1:8080");
        assert_eq!(config.gateway.cores, Cores::Auto);
        assert_eq!(config.gateway.drain, Duration::from_secs(30));
        assert_eq!(
            config.admin.listen,
            AdminListen::Tcp("127.0.0.1:9090".parse().unwrap())
        );
        assert_eq!(config.store.path(), Path::new("serin.db"));
        assert_eq!(config.control.tick, Duration::from_secs(1));
    }
}

#[test]
fn a_socket_takes_the_place_of_the_port() {
    let text = "admin: { socket: run/admin.sock, token_file: /etc/serin/token }";
    let admin = Config::parse(text, "serin.yaml").unwrap().value.admin;
    assert_eq!(admin.listen, AdminListen::Socket("run/admin.sock".into()));
    assert_eq!(admin.token_file, Path::new("/etc/serin/token"));
}

#[test]
fn what_cannot_be_read_is_said_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("serin.yaml");
    let refusal = || Config::load(&file).unwrap_err().to_string();
    assert!(refusal().contains("create this one"), "{}", refusal());
    fs::write(&file, b"store: \xff\xfe").unwrap();
    assert!(refusal().contains("UTF-8"), "{}", refusal());
    // Cut inside a letter, too large comes first.
    fs::write(&file, format!("#{}", "ä".repeat(FILE_BYTES_MAX))).unwrap();
    assert!(refusal().contains("larger than 1024 KiB"), "{}", refusal());
    fs::write(&file, EXAMPLE).unwrap();
    assert!(Config::load(&file).is_ok());
}
