//! The part of the table that limits RUN.

use clap::{ArgAction, Args};

/// What RUN may use at most.
#[derive(Debug, Args)]
pub struct LimitArguments {
    /// Memory for each RUN, such as 2g
    #[arg(short, long, value_name = "SIZE", help_heading = "Limits")]
    pub memory: Option<String>,
    /// Memory and swap space together; -1: as much swap space as there is [default: twice the memory]
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, help_heading = "Limits")]
    pub memory_swap: Option<String>,
    /// Processors for each RUN, such as 1.5
    #[arg(long, value_name = "NUMBER", help_heading = "Limits")]
    pub cpus: Option<String>,
    /// Weight where processors are short; others have 1024
    #[arg(short, long, value_name = "NUMBER", help_heading = "Limits")]
    pub cpu_shares: Option<String>,
    /// Microseconds after which --cpu-quota begins again [default: 100000]
    #[arg(long, value_name = "MICROSECONDS", help_heading = "Limits")]
    pub cpu_period: Option<String>,
    /// Microseconds of one processor that RUN may use in each period
    #[arg(long, value_name = "MICROSECONDS", allow_hyphen_values = true, help_heading = "Limits")]
    pub cpu_quota: Option<String>,
    /// Processors to run on, such as 0-3,7
    #[arg(long, value_name = "LIST", help_heading = "Limits")]
    pub cpuset_cpus: Option<String>,
    /// Memory nodes to take memory from
    #[arg(long, value_name = "LIST", help_heading = "Limits")]
    pub cpuset_mems: Option<String>,
    /// Processes and threads in each RUN; -1: no limit
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true, help_heading = "Limits")]
    pub pids_limit: Option<String>,
    /// The control group beneath which those of RUN are made, made if it is missing [default: that of rbuild]
    #[arg(long, value_name = "CGROUP", help_heading = "Limits")]
    pub cgroup_parent: Option<String>,
    /// A limit of each single process: NAME=SOFT[:HARD], such as nofile=1024:4096 (repeatable)
    #[arg(long = "ulimit", value_name = "LIMIT", help_heading = "Limits")]
    pub ulimits: Vec<String>,
    /// The same limits in one flag: memory=SIZE,cpu-quota=NUMBER,… (repeatable)
    #[arg(long = "resource", value_name = "LIMIT,…", hide = true, action = ArgAction::Append)]
    pub resources: Vec<String>,
}
