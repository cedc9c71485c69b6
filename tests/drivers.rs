//! Real drivers and PostgreSQL's own programs, in front of real servers: what an application sees of the
//! router in every situation that it knows words for. Needs what `scripts/setup test` installs.

#[path = "drivers/agent.rs"]
mod agent;
#[path = "drivers/driver.rs"]
mod driver;
#[path = "drivers/programs.rs"]
mod programs;
#[path = "drivers/situations.rs"]
mod situations;
#[path = "drivers/stage.rs"]
mod stage;
#[path = "drivers/table.rs"]
mod table;

#[allow(dead_code, reason = "other suites use the rest of the stage")]
mod members;
#[allow(dead_code, reason = "other suites use the rest of it")]
mod servers;

use std::path::Path;

use driver::{Driver, To};
use stage::Stage;
use table::Table;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drivers_are_told_what_happened() {
    let (mut stage, drivers) = tokio::join!(Stage::start(), Driver::all());
    let mut table = Table::default();
    situations::without_a_primary(&stage, &drivers, &mut table).await;
    situations::noticed(&stage, &drivers, &mut table).await;
    situations::crowded(&stage, &drivers, &mut table).await;
    situations::cancelled(&stage, &drivers, &mut table).await;
    situations::leader_moves(&mut stage, &drivers, &mut table).await;
    situations::postmaster_killed(&mut stage, &drivers, &mut table).await;
    situations::server_stops(&mut stage, &drivers, &mut table).await;
    situations::leader_moves_under_tls(&mut stage, &drivers, &mut table).await;
    situations::taken_out(&mut stage, &drivers, &mut table).await;
    situations::router_ends(&mut stage, &drivers, &mut table).await;
    eprintln!("{table}");
    table.assert_as_asked();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_of_postgresql_do_not_notice() {
    let stage = Stage::start().await;
    let through = stage.to("primary");
    programs::pgbench(&through).await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/drivers/script.sql");
    programs::psql(&To::port(stage.leader().address().port()), &through, &script).await;
}
