//! A real database on both ends: PostgreSQL through Debezium's source, a topic, and Debezium's JDBC
//! sink into another database. The rows that go in are the rows that come out, whoever dies.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flumen_it::postgres::{Postgres, USER};
use flumen_it::{Broker, Shape, not_run, random, wait};

use super::worker::Worker;
use super::{PACE, PATIENCE, count, options};

ecosystem!(rows_in_are_rows_out);

/// The table in both databases.
const ORDERS: &str = "select id, item, amount, note from orders order by id";
/// The converters that carry the rows' schemas.
const JSON: &str = "org.apache.kafka.connect.json.JsonConverter";

fn rows_in_are_rows_out(shape: Shape) -> Result<()> {
    if let Some(what) = Postgres::missing() {
        return not_run(&what);
    }
    let mut random = random("rows");
    let postgres = Postgres::start()?;
    for database in ["shop", "copy"] {
        postgres.query(USER, &format!("create database {database}"))?;
    }
    postgres.query(
        "shop",
        "create table orders (id int primary key, item text not null, amount int, note text)",
    )?;
    let mut shop = Shop {
        postgres: &postgres,
        next: 0,
    };
    // These are copied by the snapshot; what follows, from the replication slot.
    shop.change(500, &mut random)?;
    let mut broker = Broker::start(options(shape))?;
    let mut worker = Worker::distributed(&broker, "worker")?;
    worker.start()?;
    create_connectors(&worker, postgres.port())?;
    for round in 0..count(2, 20) {
        shop.change(300, &mut random)?;
        match round % 3 {
            0 => {
                broker.kill();
                shop.change(300, &mut random)?;
                broker.launch()?;
            }
            1 => {
                worker.kill();
                shop.change(300, &mut random)?;
                worker.start()?;
            }
            _ => {
                worker.stop()?;
                broker.stop(Duration::from_secs(20))?;
                shop.change(300, &mut random)?;
                broker.launch()?;
                worker.start()?;
            }
        }
        shop.change(100, &mut random)?;
        shop.await_copied(&worker)
            .with_context(|| format!("round {round}: {}", worker.tail()))?;
    }
    let rows = postgres.query("shop", "select count(*) from orders")?;
    let gone = shop.next - rows.trim().parse::<u64>()?;
    println!(
        "{} rows in, {gone} of them deleted, the same out",
        shop.next
    );
    worker.patient("DELETE", "/connectors/source", None)?;
    worker.patient("DELETE", "/connectors/sink", None)?;
    worker.stop()?;
    Ok(())
}

fn create_connectors(worker: &Worker, port: u16) -> Result<()> {
    let port = port.to_string();
    let url = format!("jdbc:postgresql://127.0.0.1:{port}/copy");
    worker.create(
        "source",
        &[
            (
                "connector.class",
                "io.debezium.connector.postgresql.PostgresConnector",
            ),
            ("tasks.max", "1"),
            ("plugin.name", "pgoutput"),
            ("database.hostname", "127.0.0.1"),
            ("database.port", &port),
            ("database.user", USER),
            ("database.password", "none"),
            ("database.dbname", "shop"),
            ("topic.prefix", "shop"),
            ("table.include.list", "public.orders"),
            ("slot.name", "flumen"),
            ("publication.autocreate.mode", "filtered"),
            ("slot.max.retries", "20"),
            ("slot.retry.delay.ms", "1000"),
            ("key.converter", JSON),
            ("value.converter", JSON),
        ],
    )?;
    worker.create(
        "sink",
        &[
            (
                "connector.class",
                "io.debezium.connector.jdbc.JdbcSinkConnector",
            ),
            ("tasks.max", "1"),
            ("topics", "shop.public.orders"),
            ("connection.url", &url),
            ("connection.username", USER),
            ("connection.password", "none"),
            ("insert.mode", "upsert"),
            ("delete.enabled", "true"),
            ("primary.key.mode", "record_key"),
            ("schema.evolution", "basic"),
            ("collection.name.format", "orders"),
            ("key.converter", JSON),
            ("value.converter", JSON),
        ],
    )?;
    worker.await_state("source", "RUNNING")?;
    worker.await_state("sink", "RUNNING")
}

/// The source database and how many rows it ever had.
struct Shop<'a> {
    postgres: &'a Postgres,
    next: u64,
}

impl Shop<'_> {
    /// Inserts this many rows in transactions of ten, and changes and deletes some of all.
    fn change(&mut self, rows: u64, random: &mut impl FnMut(u64) -> u64) -> Result<()> {
        let mut text = String::new();
        for n in self.next..self.next + rows {
            if n % 10 == 0 {
                let _ = writeln!(text, "begin;");
            }
            let (amount, note) = (random(1000), random(3));
            let note = if note == 0 {
                "null".to_owned()
            } else {
                format!("'it''s note {note} — ü'")
            };
            let _ = writeln!(
                text,
                "insert into orders values ({n}, 'item {n}', {amount}, {note});"
            );
            match random(10) {
                0 => {
                    let _ = writeln!(text, "delete from orders where id = {};", random(n + 1));
                }
                1 | 2 => {
                    let _ = writeln!(
                        text,
                        "update orders set amount = {amount}, note = null where id = {};",
                        random(n + 1)
                    );
                }
                _ => {}
            }
            if n % 10 == 9 {
                // Some transactions never happened.
                let end = if random(8) == 0 { "rollback" } else { "commit" };
                let _ = writeln!(text, "{end};");
            }
        }
        self.next += rows;
        self.postgres.query("shop", &text).map(drop)
    }

    /// Waits until both tables hold the same rows.
    fn await_copied(&self, worker: &Worker) -> Result<()> {
        let expected = self.postgres.query("shop", ORDERS)?;
        wait::every(PACE, "the same rows in the copy", PATIENCE, || {
            for name in ["source", "sink"] {
                let status = worker.get(&format!("/connectors/{name}/status"))?;
                let failed = status.to_string().contains("FAILED");
                ensure!(!failed, "{status}");
            }
            let copied = self.postgres.query("copy", ORDERS)?;
            let differs = expected.lines().zip(copied.lines()).find(|(a, b)| a != b);
            let (all, found) = (expected.lines().count(), copied.lines().count());
            ensure!(
                expected == copied,
                "{found} of {all} rows, first {differs:?}"
            );
            Ok(Some(()))
        })
    }
}
