CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE alerts (
  seq {key} PRIMARY KEY, alert_id TEXT NOT NULL UNIQUE, time_us BIGINT NOT NULL, start_us BIGINT, end_us BIGINT,
  src_ip TEXT, src_port INTEGER, dst_ip TEXT, dst_port INTEGER, protocol TEXT, community_id TEXT,
  class TEXT NOT NULL, label TEXT, score DOUBLE PRECISION, anomaly DOUBLE PRECISION, unknown BOOLEAN,
  severity SMALLINT NOT NULL, fwd_packets BIGINT, bwd_packets BIGINT, fwd_bytes BIGINT, bwd_bytes BIGINT,
  probabilities TEXT, model TEXT, suppressed_by TEXT, evidence BIGINT, evidence_row SMALLINT,
  incident_key TEXT NOT NULL, source TEXT NOT NULL
);
CREATE TABLE evidence (evidence {key} PRIMARY KEY, newest_us BIGINT NOT NULL, data {bytes} NOT NULL);
CREATE INDEX alerts_by_time ON alerts (time_us);
CREATE INDEX alerts_by_incident ON alerts (incident_key, time_us);
CREATE INDEX alerts_owed ON alerts (suppressed_by, seq);
CREATE TABLE incidents (
  incident_id TEXT PRIMARY KEY, incident_key TEXT NOT NULL, role TEXT NOT NULL, host TEXT NOT NULL, class TEXT NOT NULL,
  first_us BIGINT NOT NULL, last_us BIGINT NOT NULL, n_alerts BIGINT NOT NULL, severity SMALLINT NOT NULL,
  score DOUBLE PRECISION, n_ports BIGINT NOT NULL, n_hosts BIGINT NOT NULL, ports TEXT NOT NULL, hosts TEXT NOT NULL
);
CREATE INDEX incidents_by_key ON incidents (incident_key, last_us);
CREATE INDEX incidents_by_time ON incidents (last_us);
CREATE TABLE incident_states (
  incident_id TEXT PRIMARY KEY, status TEXT NOT NULL, note TEXT NOT NULL, changed_us BIGINT NOT NULL
);
CREATE TABLE incident_aliases (old_id TEXT PRIMARY KEY, new_id TEXT NOT NULL);
CREATE TABLE allow_rules (
  rule_id TEXT PRIMARY KEY, src TEXT, dst TEXT, host TEXT, peer TEXT, port TEXT, class TEXT, expires_us BIGINT,
  note TEXT NOT NULL, origin TEXT NOT NULL, in_force BOOLEAN NOT NULL
);
CREATE TABLE sources (
  name TEXT PRIMARY KEY, position TEXT, n_flows BIGINT NOT NULL DEFAULT 0, n_alerts BIGINT NOT NULL DEFAULT 0,
  n_duplicates BIGINT NOT NULL DEFAULT 0, n_suppressed BIGINT NOT NULL DEFAULT 0, updated_us BIGINT NOT NULL DEFAULT 0
);
CREATE TABLE losses (
  source TEXT NOT NULL, kind TEXT NOT NULL, reason TEXT NOT NULL, n BIGINT NOT NULL DEFAULT 0,
  PRIMARY KEY (source, kind, reason)
);
CREATE TABLE deliveries (
  sink TEXT PRIMARY KEY, last_seq BIGINT NOT NULL DEFAULT 0, n_delivered BIGINT NOT NULL DEFAULT 0,
  n_dead BIGINT NOT NULL DEFAULT 0, n_lost BIGINT NOT NULL DEFAULT 0
);
-- version 2
CREATE TABLE alert_counts (
  minute_us BIGINT NOT NULL, class TEXT NOT NULL, severity SMALLINT NOT NULL, n BIGINT NOT NULL DEFAULT 0,
  PRIMARY KEY (minute_us, class, severity)
);
CREATE TABLE flow_counts (
  source TEXT NOT NULL, minute_us BIGINT NOT NULL, n_flows BIGINT NOT NULL DEFAULT 0,
  n_alerts BIGINT NOT NULL DEFAULT 0, PRIMARY KEY (source, minute_us)
);
CREATE TABLE engines (source TEXT PRIMARY KEY, updated_us BIGINT NOT NULL, state TEXT NOT NULL);
CREATE TABLE drift_counts (
  source TEXT NOT NULL, model TEXT NOT NULL, hour_us BIGINT NOT NULL, n_flows BIGINT NOT NULL, counts {bytes} NOT NULL,
  PRIMARY KEY (source, model, hour_us)
);
CREATE TABLE feedback (
  feedback_id {serial} PRIMARY KEY, subject TEXT NOT NULL, subject_id TEXT NOT NULL, verdict TEXT NOT NULL, class TEXT,
  note TEXT NOT NULL, analyst TEXT NOT NULL, time_us BIGINT NOT NULL
);
CREATE INDEX feedback_by_subject ON feedback (subject, subject_id);
CREATE TABLE models (
  model_id TEXT PRIMARY KEY, model TEXT NOT NULL, name TEXT NOT NULL, file {bytes} NOT NULL, added_us BIGINT NOT NULL,
  added_by TEXT NOT NULL, comparison TEXT
);
CREATE TABLE activations (
  activation_id {serial} PRIMARY KEY, model_id TEXT NOT NULL, analyst TEXT NOT NULL, note TEXT NOT NULL,
  time_us BIGINT NOT NULL
);
CREATE TABLE tokens (
  token_id TEXT PRIMARY KEY, name TEXT NOT NULL, role TEXT NOT NULL, hash TEXT NOT NULL UNIQUE,
  created_us BIGINT NOT NULL, expires_us BIGINT, revoked_us BIGINT, used_us BIGINT
);
CREATE TABLE sessions (
  hash TEXT PRIMARY KEY, token_id TEXT NOT NULL, csrf TEXT NOT NULL, created_us BIGINT NOT NULL,
  expires_us BIGINT NOT NULL
);
CREATE TABLE audit (
  audit_id {serial} PRIMARY KEY, time_us BIGINT NOT NULL, actor TEXT NOT NULL, action TEXT NOT NULL,
  subject TEXT NOT NULL, detail TEXT NOT NULL, address TEXT NOT NULL
);
CREATE INDEX incidents_by_host ON incidents (host, last_us);
CREATE INDEX alerts_by_src ON alerts (src_ip, incident_key, time_us);
CREATE INDEX alerts_by_dst ON alerts (dst_ip, incident_key, time_us);
CREATE INDEX alerts_by_port ON alerts (dst_port, incident_key, time_us);
