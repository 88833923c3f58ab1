-- Journals of runs as rows, and what commands on several hosts share. Safety rests on one row: shard (epoch, seq, head).

create table acctops.home (               -- one row: which database this is
  only_one boolean primary key default true check (only_one),
  id text not null,
  place text not null                     -- what cluster and database it was made in: a restored copy is another place
);
create table acctops.run (
  id text primary key,
  simulated boolean not null,
  created_at timestamptz not null default clock_timestamp(),
  stop boolean not null default false
);
create index run_by_age on acctops.run (simulated, id);
create table acctops.shard (              -- one hash chain of a run; number 0 is its journal, -1 what stands beside it
  run text not null references acctops.run,
  no int not null,
  epoch bigint not null,                  -- raised by whoever takes it: who has an older one can append nothing
  seq bigint not null default 0,
  head text not null,
  owner text,                             -- null: given back in order
  taken_by text not null default '',      -- who had it last, or fenced it
  taken_at timestamptz not null default clock_timestamp(),
  at timestamptz not null default clock_timestamp(),  -- when its owner was last heard of, by this server's clock
  primary key (run, no)
) with (fillfactor = 50);
create table acctops.batch (              -- the lines of one commit, as a journal file has them
  run text not null,
  no int not null,
  first bigint not null,
  last bigint not null,
  at timestamptz not null default clock_timestamp(),
  lines bytea not null,
  primary key (run, no, first)
);
create table acctops.claim (              -- what a live run works on
  run text primary key,
  simulated boolean not null,
  token text not null,
  digest text not null,
  path text not null,
  action text not null,
  keep_admins int not null,
  calls bytea not null,
  at timestamptz not null default clock_timestamp()
) with (fillfactor = 50);
create table acctops.lane (               -- the slots of one quota, for all processes of all hosts
  name text primary key,
  schedule float8 not null,               -- the last slot of the schedule, in seconds of this server's clock
  leaving float8[] not null               -- when the last sends leave at the latest, in order
) with (fillfactor = 50);
create table acctops.request (            -- what people ask of a live run
  no bigint generated always as identity primary key,
  run text not null,
  name text not null,
  by text not null,
  wish bytea not null,
  unique (run, name)
);
create table acctops.mark (
  simulated boolean not null,
  name text not null,
  text text not null,
  at timestamptz not null default clock_timestamp(),
  primary key (simulated, name)
);
create table acctops.used (               -- approved plans that were used up
  simulated boolean not null,
  plan text not null,
  run text not null,
  place text not null,
  primary key (simulated, plan)
);
create table acctops.head_line (          -- the list of the ends of runs
  simulated boolean not null,
  seq bigint not null,
  hash text not null,
  line bytea not null,
  primary key (simulated, seq)
);
create table acctops.seal_line (
  no bigint generated always as identity primary key,
  simulated boolean not null,
  line bytea not null
);

create view acctops.line as               -- every line by itself, for SQL
  select b.run, b.no, b.first + l.place - 1 as seq, l.line
    from acctops.batch b,
         string_to_table(rtrim(convert_from(b.lines, 'UTF8'), E'\n'), E'\n') with ordinality as l(line, place);

create function acctops.place() returns text language sql stable security definer set search_path = acctops, pg_temp as $$
  select (select system_identifier from pg_catalog.pg_control_system())::text || '/'
      || (select oid from pg_catalog.pg_database where datname = pg_catalog.current_database())::text
$$;

-- Seconds since an owner was heard of. While the server was down nobody could be heard of.
create function acctops.silent_s(at timestamptz) returns float8 language sql stable set search_path = acctops, pg_temp as $$
  select extract(epoch from pg_catalog.clock_timestamp() - greatest(at, pg_catalog.pg_postmaster_start_time()))::float8
$$;

create function acctops.is_live(the_run text, patience_s float8) returns boolean
language sql stable set search_path = acctops, pg_temp as $$
  select exists (select 1 from acctops.shard s
                  where s.run = the_run and s.no = 0 and s.owner is not null and acctops.silent_s(s.at) < patience_s)
$$;

create function acctops.holds_claim(the_run text, the_token text) returns boolean
language sql security definer set search_path = acctops, pg_temp as $$
  update claim set at = clock_timestamp() where run = the_run and token = the_token returning true
$$;

-- Make a run without lines; `append` in the same transaction gives it its plan. Null: its claim was taken away.
create function acctops.create_run(the_run text, is_simulated boolean, who text, the_token text) returns bigint
language plpgsql security definer set search_path = acctops, pg_temp as $$
begin
  if the_token is not null and holds_claim(the_run, the_token) is null then return null; end if;
  insert into run (id, simulated) values (the_run, is_simulated);
  insert into shard (run, no, epoch, head, owner, taken_by) values (the_run, 0, 1, repeat('0', 64), who, who);
  insert into shard (run, no, epoch, head) values (the_run, -1, 0, '');
  return 1;
end $$;

-- Append: moves the chains whose epoch, seq and head are still as the writer knows them, and only those.
create function acctops.append(runs text[], nos int[], epochs bigint[], seqs bigint[], heads text[],
                               new_seqs bigint[], new_heads text[], new_lines bytea[])
returns table (run text, no int, stop boolean, asked bigint)
language sql security definer set search_path = acctops, pg_temp as $$
  with input as (
    select * from unnest(runs, nos, epochs, seqs, heads, new_seqs, new_heads, new_lines)
      as i(run, no, epoch, seq, head, new_seq, new_head, lines)),
  moved as (
    update shard s set at = clock_timestamp(), seq = i.new_seq, head = i.new_head
      from input i
     where s.run = i.run and s.no = i.no and s.epoch = i.epoch and s.seq = i.seq and s.head = i.head
       and i.new_seq > i.seq
    returning s.run, s.no, i.seq, i.new_seq, i.lines),
  added as (
    insert into batch (run, no, first, last, lines)
    select m.run, m.no, m.seq + 1, m.new_seq, m.lines from moved m)
  select m.run, m.no, r.stop, (select coalesce(max(q.no), 0) from request q where q.run = m.run)
    from moved m join run r on r.id = m.run
$$;

-- Permit: nothing is appended; says which chains are still the writer's, and that the writer lives.
create function acctops.permit(runs text[], nos int[], epochs bigint[])
returns table (run text, no int, stop boolean, asked bigint)
language sql security definer set search_path = acctops, pg_temp as $$
  with mine as (
    update shard s set at = clock_timestamp()
      from unnest(runs, nos, epochs) as i(run, no, epoch)
     where s.run = i.run and s.no = i.no and s.epoch = i.epoch returning s.run, s.no)
  select m.run, m.no, r.stop, (select coalesce(max(q.no), 0) from request q where q.run = m.run)
    from mine m join run r on r.id = m.run
$$;

-- Take a chain: whatever the owner before may still want to append is refused from here on. `epoch` is null, and
-- nothing is taken, while the owner was heard of within `patience_s`, or if the claim of the taker was taken away.
create function acctops.take(the_run text, the_no int, who text, patience_s float8, the_token text)
returns table (epoch bigint, seq bigint, head text, owner text, silent_s float8, heard text)
language plpgsql security definer set search_path = acctops, pg_temp as $$
declare s acctops.shard; quiet float8;
begin
  select x.* into s from acctops.shard x where x.run = the_run and x.no = the_no for update;
  if not found then return; end if;
  quiet := acctops.silent_s(s.at);
  if s.owner is not null and quiet < patience_s
     or the_token is not null and acctops.holds_claim(the_run, the_token) is null then
    return query select null::bigint, s.seq, s.head, s.owner, quiet, s.at::text;
  else
    update acctops.shard x set epoch = x.epoch + 1, owner = who, taken_by = who, taken_at = clock_timestamp(), at = clock_timestamp()
     where x.run = the_run and x.no = the_no;
    return query select s.epoch + 1, s.seq, s.head, s.owner, quiet, s.at::text;
  end if;
end $$;

create function acctops.release(the_run text, the_no int, the_epoch bigint) returns boolean
language sql security definer set search_path = acctops, pg_temp as $$
  update shard set owner = null where run = the_run and no = the_no and epoch = the_epoch returning true
$$;

-- Keep a silent run from ever appending again, and from sending: a claim that it may meet is about to be made.
create function acctops.fence(the_run text, who text, patience_s float8) returns boolean
language plpgsql security definer set search_path = acctops, pg_temp as $$
begin
  perform 1 from shard s where s.run = the_run and s.no = 0 and s.owner is not null and silent_s(s.at) < patience_s
     for update;
  if found then return false; end if;
  update shard s set epoch = s.epoch + 1, owner = null, taken_by = who, taken_at = clock_timestamp()
   where s.run = the_run and s.no = 0;
  delete from claim c where c.run = the_run;
  return true;
end $$;

create function acctops.claim(the_run text, is_simulated boolean, the_token text, the_digest text, the_path text,
                              the_action text, keep int, the_calls bytea) returns void
language sql security definer set search_path = acctops, pg_temp as $$
  delete from claim where run = the_run;
  insert into claim (run, simulated, token, digest, path, action, keep_admins, calls)
  values (the_run, is_simulated, the_token, the_digest, the_path, the_action, keep, the_calls);
$$;

create function acctops.unclaim(the_run text, the_token text) returns void
language sql security definer set search_path = acctops, pg_temp as $$
  delete from claim where run = the_run and token = the_token
$$;

-- Take the next slot of a lane; returns how many seconds from now it is. A send counts as late_s later than its slot.
create function acctops.slot(the_lane text, depth int, interval_s float8, window_s float8, late_s float8)
returns float8 language plpgsql security definer set search_path = acctops, pg_temp as $$
declare l lane; t float8; at float8; n int;
begin
  insert into lane (name, schedule, leaving) values (the_lane, '-infinity', '{}') on conflict do nothing;
  select x.* into l from lane x where x.name = the_lane for update;
  t := extract(epoch from clock_timestamp());
  if l.schedule > t + greatest(60, 100 * interval_s) then  -- the clock was set back
    l.schedule := '-infinity'; l.leaving := '{}';
  end if;
  l.schedule := greatest(l.schedule + interval_s, t);
  at := l.schedule;
  n := coalesce(array_length(l.leaving, 1), 0);
  if n >= depth then at := greatest(at, l.leaving[n - depth + 1] + window_s); end if;
  l.leaving := l.leaving || greatest(at + late_s, l.leaving[n]);
  if n >= 256 then l.leaving := l.leaving[n - 254 :]; end if;
  update lane x set schedule = greatest(l.schedule, at), leaving = l.leaving where x.name = the_lane;
  return at - t;
end $$;

create function acctops.ask(the_run text, the_name text, who text, the_wish bytea) returns void
language sql security definer set search_path = acctops, pg_temp as $$
  insert into request (run, name, by, wish) values (the_run, the_name, who || ', role ' || session_user, the_wish)
$$;

create function acctops.request_stop(the_run text) returns void
language sql security definer set search_path = acctops, pg_temp as $$
  update run set stop = true where id = the_run
$$;

create function acctops.forget(the_run text, the_name text) returns void
language sql security definer set search_path = acctops, pg_temp as $$
  delete from request where run = the_run and (the_name is null or name = the_name);
  update run set stop = false where id = the_run and the_name is null and stop;
$$;

create function acctops.set_mark(is_simulated boolean, the_name text, the_text text) returns void
language sql security definer set search_path = acctops, pg_temp as $$
  insert into mark (simulated, name, text) values (is_simulated, the_name, the_text)
  on conflict (simulated, name) do update set text = excluded.text, at = clock_timestamp()
$$;

-- Use up a plan, once; returns the run that did so before.
create function acctops.use_up(is_simulated boolean, the_plan text, the_run text) returns text
language plpgsql security definer set search_path = acctops, pg_temp as $$
declare before text;
begin
  insert into used (simulated, plan, run, place) values (is_simulated, the_plan, the_run, place())
  on conflict do nothing;
  if found then return null; end if;
  select u.run into before from used u where u.simulated = is_simulated and u.plan = the_plan;
  return before;
end $$;

-- Add a line to the list of ends; false: another line was added first.
create function acctops.list_end(is_simulated boolean, the_seq bigint, previous text, the_hash text, the_line bytea)
returns boolean language plpgsql security definer set search_path = acctops, pg_temp as $$
begin
  perform pg_catalog.pg_advisory_xact_lock(720575940, 1);
  if the_seq <> 1 + coalesce((select max(h.seq) from head_line h where h.simulated = is_simulated), 0)
     or the_seq > 1 and previous <> (select h.hash from head_line h where h.simulated = is_simulated and h.seq = the_seq - 1)
  then return false; end if;
  insert into head_line (simulated, seq, hash, line) values (is_simulated, the_seq, the_hash, the_line);
  return true;
end $$;

create function acctops.add_seal(is_simulated boolean, the_line bytea) returns void
language sql security definer set search_path = acctops, pg_temp as $$
  insert into seal_line (simulated, line) values (is_simulated, the_line)
$$;

create function acctops.adopt() returns void language sql security definer set search_path = acctops, pg_temp as $$
  update home set place = acctops.place()
$$;

insert into acctops.home (id, place) values (substr(md5(random()::text || clock_timestamp()::text), 1, 16), acctops.place());
