//! `process_*`: what the operating system says of this process.

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
};
use std::fmt;

#[derive(Debug)]
pub(super) struct Process;

/// What is exported; a reading that fails is left out.
struct Reading {
    cpu_seconds: f64,
    resident_bytes: u64,
    open_files: Option<usize>,
}

fn read() -> Option<Reading> {
    let me = procfs::process::Process::myself().ok()?;
    let stat = me.stat().ok()?;
    Some(Reading {
        cpu_seconds: (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64,
        resident_bytes: stat.rss * procfs::page_size(),
        open_files: me.fd_count().ok(),
    })
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(reading) = read() else {
            return Ok(());
        };
        encoder
            .encode_descriptor(
                "process_cpu_seconds",
                "Processor time, user and system",
                None,
                MetricType::Counter,
            )?
            .encode_counter::<NoLabelSet, _, u64>(&reading.cpu_seconds, None)?;
        encoder
            .encode_descriptor(
                "process_resident_memory_bytes",
                "Resident memory",
                None,
                MetricType::Gauge,
            )?
            .encode_gauge(&reading.resident_bytes)?;
        if let Some(files) = reading.open_files {
            encoder
                .encode_descriptor(
                    "process_open_fds",
                    "Open files and sockets",
                    None,
                    MetricType::Gauge,
                )?
                .encode_gauge(&files)?;
        }
        Ok(())
    }
}
