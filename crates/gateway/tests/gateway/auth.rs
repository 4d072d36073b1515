//! Who gets in, what of a service is there for them, and what nobody else can use.

use crate::{gates::gated, support::*};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use serin_flags::Table;
use serin_gateway::{Keyring, Signer};
use serin_model::{observe::Sealed, service::Protocol, snapshot::ServiceRoute};
use serin_tenancy::{
    Directory, KeyRecord, Role, Scopes, SecretKey, Tenant, TenantId, TenantState,
    key::RANDOM_BYTES,
    signature::{MASTER_BYTES, Master},
    token::KeySet,
};
use std::{collections::BTreeMap, sync::Arc};

mod keys;
mod owners;
mod scopes;
mod signatures;
mod tokens;

/// Everybody who may call: changed as an operator would.
#[derive(Clone, Default)]
pub(crate) struct Callers {
    tenants: BTreeMap<TenantId, Arc<Tenant>>,
    keys: BTreeMap<serin_tenancy::KeyId, Arc<KeyRecord>>,
    made: u8,
}

impl Callers {
    pub(crate) fn new(tenants: &[&str]) -> Self {
        let mut callers = Self::default();
        for tenant in tenants {
            callers.tenant(tenant, TenantState::Active);
        }
        callers
    }

    pub(crate) fn tenant(&mut self, id: &str, state: TenantState) {
        let tenant = Tenant {
            title: String::new(),
            tier: None,
            state,
            created_at: Timestamp::UNIX_EPOCH,
        };
        self.tenants.insert(id.parse().unwrap(), Arc::new(tenant));
    }

    /// A key, as its holder sends it.
    pub(crate) fn key(&mut self, tenant: &str, role: Role, scopes: &[&str]) -> String {
        self.made += 1;
        let key = SecretKey::new(&[self.made; RANDOM_BYTES]);
        let (id, hash) = key.parts().unwrap();
        let record = KeyRecord {
            id,
            tenant: tenant.parse().unwrap(),
            name: String::new(),
            hash,
            role,
            scopes: Scopes::new(scopes.iter().map(|scope| scope.parse().unwrap())),
            tier: None,
            created_at: Timestamp::UNIX_EPOCH,
            expires_at: Timestamp::now() + SignedDuration::from_hours(1),
            revoked_at: None,
            replaced_by: None,
            signs: true,
        };
        self.keys.insert(id, Arc::new(record));
        format!("Bearer {}", key.expose())
    }

    pub(crate) fn change(&mut self, key: &str, change: impl FnOnce(&mut KeyRecord)) {
        let id = key[13..25].parse().unwrap();
        change(Arc::make_mut(self.keys.get_mut(&id).unwrap()));
    }

    pub(crate) fn directory(&self) -> Directory {
        Directory::new(&self.tenants, &self.keys, &BTreeMap::new())
    }
}

/// A service that asks for keys of ours.
pub(crate) fn serin(server: &Server, settings: &Value) -> ServiceRoute {
    let mut all = json!({ "auth": "serin" });
    for (name, value) in settings.as_object().unwrap() {
        all[name] = value.clone();
    }
    gated(
        service(&[build("v1", &[server])], None),
        all,
        &Table::default(),
    )
}

/// The same over plain HTTP, at `/web`.
fn web(server: &Server, settings: &Value) -> ServiceRoute {
    let mut web = serin(server, settings);
    (web.protocol, web.path) = (Protocol::Http, "/web".into());
    web
}

/// A gateway that can tell whose signature it is, and what the secrets of keys are made of.
fn with_signer() -> (Running, Arc<Master>) {
    let master = Arc::new(Master::new([3; MASTER_BYTES]));
    let signer = Arc::new(Signer::new(master.clone()));
    let gateway = Running::with(vec![], Keyring::ephemeral().unwrap(), |options| {
        options.signer = Some(signer);
    });
    (gateway, master)
}

pub(crate) fn start(services: Vec<ServiceRoute>, callers: &Callers) -> Running {
    let running = Running::start(vec![]);
    running.swap_callers(services, callers.directory());
    running
}

const LIST: &str = r#"{"jsonrpc":"2.0","id":3,"method":"tools/list","params":{}}"#;

/// A modern message of whoever has a key.
pub(crate) async fn ask(
    client: &mut Client,
    key: &str,
    method: &str,
    name: Option<&str>,
) -> Answer {
    let params = name.map_or("{}".to_owned(), |name| json!({ "name": name }).to_string());
    client
        .modern(method, name, &[("authorization", key)], &params)
        .await
}

pub(crate) async fn list(client: &mut Client, key: &str) -> Answer {
    ask(client, key, "tools/list", None).await
}

/// A legacy message.
pub(crate) async fn legacy(client: &mut Client, key: &str, session: &str, body: &str) -> Answer {
    let headers = [
        ("content-type", "application/json"),
        ("accept", "application/json, text/event-stream"),
        ("mcp-protocol-version", "2025-11-25"),
        ("authorization", key),
        ("mcp-session-id", session),
    ];
    let used = if session.is_empty() { 4 } else { 5 };
    client
        .ask("POST", "/mcp", &headers[..used], body.to_owned())
        .await
}

pub(crate) async fn begin(client: &mut Client, key: &str) -> String {
    let answer = legacy(client, key, "", INITIALIZE).await;
    let session = answer.header("mcp-session-id");
    session.unwrap_or_else(|| panic!("{answer:?}")).to_owned()
}

/// How often looking at who asks ended so.
fn auth(seen: &[Sealed], result: &str) -> u64 {
    let of = |sealed: &Sealed| {
        let results = sealed.auth.iter().filter(|(label, _)| *label == result);
        results.map(|(_, n)| n).sum::<u64>()
    };
    seen.iter().map(of).sum()
}

/// An identity provider.
pub(crate) struct Provider {
    secret: EncodingKey,
    public: String,
    keys: Arc<KeySet>,
}

impl Provider {
    pub(crate) fn new() -> Self {
        let pair = Ed25519KeyPair::generate().unwrap();
        let public = BASE64_URL_SAFE_NO_PAD.encode(pair.public_key());
        let set =
            json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "kid": "one", "x": public }] });
        Self {
            secret: EncodingKey::from_ed_der(pair.to_pkcs8v1().unwrap().as_ref()),
            public,
            keys: Arc::new(KeySet::parse(set.to_string().as_bytes()).unwrap()),
        }
    }

    pub(crate) fn token(&self, changes: &Value) -> String {
        self.token_of(changes, "one")
    }

    pub(crate) fn token_of(&self, changes: &Value, kid: &str) -> String {
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(kid.into());
        format!(
            "Bearer {}",
            encode(&header, &claims(changes), &self.secret).unwrap()
        )
    }
}

fn claims(changes: &Value) -> Value {
    let mut claims = json!({
        "iss": "https://id.example", "aud": "https://mcp.example/mcp", "sub": "ann", "tenant": "acme",
        "exp": Timestamp::now().as_second() + 600,
    });
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

pub(crate) fn with_tokens(server: &Server, keys: Option<&Provider>) -> Vec<ServiceRoute> {
    let jwt = json!({ "jwt": {
        "issuer": "https://id.example", "audience": "https://mcp.example/mcp", "jwks": "https://id.example/keys",
    } });
    let mut service = serin(server, &jwt);
    service.tokens = keys.map(|provider| provider.keys.clone());
    vec![service]
}
