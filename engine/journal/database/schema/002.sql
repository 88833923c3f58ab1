-- Runs that many workers share: a chain for each shard, the order of all commits, and which workers live.

-- An older process may be appending. It locks these tables in another order than any order here, so wait for none of
-- them while one is held.
do $$
declare tries int := 0;
begin
  loop
    begin
      lock table acctops.run, acctops.shard, acctops.batch in access exclusive mode nowait;
      exit;
    exception when lock_not_available then
      tries := tries + 1;
      if tries > 3000 then raise; end if;
      perform pg_catalog.pg_sleep(0.01);
    end;
  end loop;
end $$;

alter table acctops.batch add column place bigint;  -- the order of commits; within a chain it is that of its lines
update acctops.batch b set place = o.place
  from (select run, no, first, row_number() over (order by run, no, first) as place from acctops.batch) o
 where b.run = o.run and b.no = o.no and b.first = o.first;
alter table acctops.batch alter column place set not null;
alter table acctops.batch alter column place add generated always as identity;
select pg_catalog.setval(pg_catalog.pg_get_serial_sequence('acctops.batch', 'place'),
                         (select coalesce(max(place), 0) + 1 from acctops.batch), false);
create index batch_by_place on acctops.batch (run, place);

alter table acctops.run
  add column submitted boolean not null default false,  -- workers carry it out
  add column wave int not null default 0,               -- waves up to this one may be sent; 0: not begun
  add column since bigint not null default 0;           -- number of the last line of chain 0 when it was submitted
create index run_submitted on acctops.run (id) where submitted;

alter table acctops.shard                 -- of what follows, chains 0 and -1 use `ack` alone
  add column genesis text not null default '',          -- what its chain begins with
  add column wave int not null default 0,
  add column planned text[] not null default '{}',      -- lanes that might take it when the run was made
  add column lanes text[] not null default '{}',        -- lanes that may take it now: some were refused by the API
  add column lane text,                                 -- which one has it; null: none
  add column open boolean not null default false,       -- there may be work left
  add column calls int not null default 0,
  add column ack bigint not null default 0;             -- the last request of people that its session has carried out
create index shard_open on acctops.shard (run, no) where open;
create index shard_by_lane on acctops.shard using gin (lanes) where open;

create table acctops.worker (
  name text primary key,
  host text not null,
  pid int not null,
  version text not null,
  queues text[] not null,                 -- the identities whose lanes it takes
  lanes int not null,                     -- sessions of lanes that it has now
  programs text[] not null,               -- programs that it runs if a run names them
  leads boolean not null,                 -- whether it leads runs
  since timestamptz not null default clock_timestamp(),
  at timestamptz not null default clock_timestamp()
) with (fillfactor = 50);

-- `append` as before, which older processes call; `acks`: what is to be stored as `ack`, null to leave it.
-- A function in SQL is planned at each call, which costs more than all else here; one in PL/pgSQL is planned once a
-- connection. Its plan may be older than the rows: so it may only be one that takes each row by its key.
create function acctops.append(runs text[], nos int[], epochs bigint[], seqs bigint[], heads text[],
                               new_seqs bigint[], new_heads text[], new_lines bytea[], acks bigint[])
returns table (run text, no int, stop boolean, asked bigint)
language plpgsql security definer set search_path = acctops, pg_temp
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
#variable_conflict use_column
begin
  return query
  with input as (
    select * from unnest(runs, nos, epochs, seqs, heads, new_seqs, new_heads, new_lines, acks)
      as i(run, no, epoch, seq, head, new_seq, new_head, lines, ack)),
  moved as (
    update shard s set at = clock_timestamp(), seq = i.new_seq, head = i.new_head, ack = coalesce(i.ack, s.ack)
      from input i
     where s.run = i.run and s.no = i.no and s.epoch = i.epoch and s.seq = i.seq and s.head = i.head
       and i.new_seq > i.seq
    returning s.run, s.no, i.seq, i.new_seq, i.lines),
  added as (
    insert into batch (run, no, first, last, lines)
    select m.run, m.no, m.seq + 1, m.new_seq, m.lines from moved m)
  select m.run, m.no, r.stop, (select coalesce(max(q.no), 0) from request q where q.run = m.run)
    from moved m join run r on r.id = m.run;
end $$;

create function acctops.permit(runs text[], nos int[], epochs bigint[], acks bigint[])
returns table (run text, no int, stop boolean, asked bigint)
language plpgsql security definer set search_path = acctops, pg_temp
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
#variable_conflict use_column
begin
  return query
  with mine as (
    update shard s set at = clock_timestamp(), ack = coalesce(i.ack, s.ack)
      from unnest(runs, nos, epochs, acks) as i(run, no, epoch, ack)
     where s.run = i.run and s.no = i.no and s.epoch = i.epoch returning s.run, s.no)
  select m.run, m.no, r.stop, (select coalesce(max(q.no), 0) from request q where q.run = m.run)
    from mine m join run r on r.id = m.run;
end $$;

-- Divide a run that is being made: an array of {no, wave, lanes, calls, head}; `head`: what the chain begins with.
create function acctops.add_shards(the_run text, the_epoch bigint, the_shards jsonb) returns bigint
language sql security definer set search_path = acctops, pg_temp as $$
  with added as (
    insert into shard (run, no, epoch, head, genesis, wave, planned, lanes, open, calls)
    select the_run, x.no, 0, x.head, x.head, x.wave, x.lanes, x.lanes, true, x.calls
      from jsonb_to_recordset(the_shards) as x(no int, wave int, lanes text[], calls int, head text)
     where x.no > 0 and exists (select 1 from shard s where s.run = the_run and s.no = 0 and s.epoch = the_epoch)
    returning no)
  select count(*) from added
$$;

-- Give a run to the workers, from its first wave on. Nobody has to be heard of before this moment.
create function acctops.submit(the_run text) returns boolean
language sql security definer set search_path = acctops, pg_temp as $$
  delete from request where run = the_run;
  update shard set at = clock_timestamp() where run = the_run and owner is null and (no = 0 or open);
  update run set submitted = true, wave = 0, stop = false,
                 since = (select s.seq from shard s where s.run = the_run and s.no = 0)
   where id = the_run returning true;
$$;

-- Whether the owner of any of a run's chains was heard of lately.
create function acctops.is_heard(the_run text, patience_s float8) returns boolean
language sql stable set search_path = acctops, pg_temp as $$
  select exists (select 1 from acctops.shard s
                  where s.run = the_run and s.no >= 0 and s.owner is not null and acctops.silent_s(s.at) < patience_s)
$$;

-- A run lives while it is heard of, and as long as workers have it, whoever works on it at this moment.
create or replace function acctops.is_live(the_run text, patience_s float8) returns boolean
language sql stable set search_path = acctops, pg_temp as $$
  select acctops.is_heard(the_run, patience_s)
      or exists (select 1 from acctops.run r where r.id = the_run and r.submitted)
$$;

-- As before; a run for workers is taken from them, too, with all its shards.
create or replace function acctops.fence(the_run text, who text, patience_s float8) returns boolean
language plpgsql security definer set search_path = acctops, pg_temp as $$
begin
  perform 1 from shard s where s.run = the_run and s.no >= 0 order by s.no for update;
  if is_heard(the_run, patience_s) then return false; end if;
  update shard s set epoch = s.epoch + 1, owner = null, lane = null, open = false, taken_by = who,
                     taken_at = clock_timestamp()
   where s.run = the_run and s.no >= 0;
  update run set submitted = false where id = the_run;
  delete from claim c where c.run = the_run;
  return true;
end $$;

create function acctops.withdraw(the_run text) returns boolean
language sql security definer set search_path = acctops, pg_temp as $$
  update run set submitted = false where id = the_run returning true
$$;

-- Open shards, for all lanes that the plan names. Who has one keeps it.
create function acctops.reopen(the_run text, the_nos int[]) returns bigint
language sql security definer set search_path = acctops, pg_temp as $$
  with opened as (
    update shard set open = true, lanes = planned, lane = case when owner is null then null else lane end,
                     at = case when owner is null then clock_timestamp() else at end
     where run = the_run and no > 0 and no = any(the_nos)
    returning no)
  select count(*) from opened
$$;

-- Let the waves up to this one be sent, as the session that has the run; null: it has it no more.
create function acctops.let_go(the_run text, the_epoch bigint, the_wave int) returns boolean
language plpgsql security definer set search_path = acctops, pg_temp as $$
begin
  perform 1 from shard s where s.run = the_run and s.no = 0 and s.epoch = the_epoch for update;
  if not found then return null; end if;
  update shard s set at = clock_timestamp()
    from run r
   where r.id = the_run and s.run = the_run and s.no > 0 and s.open and s.owner is null
     and greatest(s.wave, 1) > r.wave and s.wave <= the_wave;
  update run set wave = the_wave where id = the_run;
  return true;
end $$;

create function acctops.finish(the_run text, the_epoch bigint) returns boolean
language plpgsql security definer set search_path = acctops, pg_temp as $$
begin
  perform 1 from shard s where s.run = the_run and s.no = 0 and s.epoch = the_epoch for update;
  if not found then return null; end if;
  update run set submitted = false where id = the_run;
  return true;
end $$;

-- Take a shard for a lane that may have it; no row: it may not, or no longer.
create function acctops.take_shard(the_run text, the_no int, the_lane text, who text, patience_s float8)
returns table (epoch bigint, seq bigint, head text, genesis text, lanes text[])
language plpgsql security definer set search_path = acctops, pg_temp as $$
declare s acctops.shard;
begin
  select x.* into s from acctops.shard x where x.run = the_run and x.no = the_no for update;
  if not found or the_no < 1 or not s.open
     or s.lane is not null and s.lane <> the_lane or the_lane <> all(s.lanes)
     or s.owner is not null and acctops.silent_s(s.at) < patience_s
     or not exists (select 1 from acctops.run r where r.id = the_run and r.submitted and r.wave >= greatest(s.wave, 1))
  then return; end if;
  update acctops.shard x set epoch = x.epoch + 1, owner = who, lane = the_lane, taken_by = who,
                             taken_at = clock_timestamp(), at = clock_timestamp()
   where x.run = the_run and x.no = the_no;
  return query select s.epoch + 1, s.seq, s.head, s.genesis, s.lanes;
end $$;

-- Give a shard back, for any of its lanes but one that the API refused; none left: it is closed.
create function acctops.give_back(the_run text, the_no int, the_epoch bigint, without text) returns boolean
language sql security definer set search_path = acctops, pg_temp as $$
  update shard set owner = null, lane = null, at = clock_timestamp(),
                   lanes = case when without is null then lanes else array_remove(lanes, without) end,
                   open = open and (without is null or array_remove(lanes, without) <> '{}')
   where run = the_run and no = the_no and no > 0 and epoch = the_epoch returning true
$$;

create function acctops.close_shard(the_run text, the_no int, the_epoch bigint) returns boolean
language sql security definer set search_path = acctops, pg_temp as $$
  update shard set owner = null, lane = null, open = false
   where run = the_run and no = the_no and no > 0 and epoch = the_epoch returning true
$$;

-- Close and fence the shards that nobody works on, as the session that has the run; returns how many are still open.
create function acctops.close_idle(the_run text, the_epoch bigint, who text, patience_s float8) returns bigint
language plpgsql security definer set search_path = acctops, pg_temp as $$
begin
  perform 1 from shard s where s.run = the_run and s.no = 0 and s.epoch = the_epoch for update;
  if found then
    update shard s set open = false, epoch = s.epoch + 1, owner = null, lane = null, taken_by = who,
                       taken_at = clock_timestamp()
     where s.run = the_run and s.no > 0 and s.open and (s.owner is null or silent_s(s.at) >= patience_s);
  end if;
  return (select count(*) from shard s where s.run = the_run and s.no > 0 and s.open);
end $$;

-- A worker says that it lives. One that has been silent for an hour is forgotten.
create function acctops.beat(the_name text, the_host text, the_pid int, the_version text, the_queues text[],
                             the_lanes int, the_programs text[], the_leads boolean) returns void
language sql security definer set search_path = acctops, pg_temp as $$
  delete from worker where silent_s(at) > 3600 and name <> the_name;
  insert into worker (name, host, pid, version, queues, lanes, programs, leads)
  values (the_name, the_host, the_pid, the_version, the_queues, the_lanes, the_programs, the_leads)
  on conflict (name) do update set host = excluded.host, pid = excluded.pid, version = excluded.version,
    queues = excluded.queues, lanes = excluded.lanes, at = clock_timestamp();
$$;

create function acctops.leave(the_name text) returns void
language sql security definer set search_path = acctops, pg_temp as $$
  delete from worker where name = the_name
$$;

-- Take the next slot of a lane; returns how many seconds from now it is, and until when its call counts as not yet gone,
-- in seconds of this server's clock: late_s after the slot. With the question comes what became of an earlier call: the
-- one that counted until `told` left before `left_at`. As with files, few slots of the schedule may be caught up; the
-- window holds whatever the schedule says.
create function acctops.next_slot(the_lane text, depth int, interval_s float8, window_s float8, late_s float8,
                                  told float8, left_at float8, out wait_s float8, out until float8)
language plpgsql security definer set search_path = acctops, pg_temp as $$
declare
  l lane;
  n int;
  t float8;
  at float8;
begin
  select x.* into l from lane x where x.name = the_lane for update;
  if not found then
    insert into lane (name, schedule, leaving) values (the_lane, '-infinity', '{}') on conflict do nothing;
    select x.* into l from lane x where x.name = the_lane for update;
  end if;
  t := extract(epoch from clock_timestamp());
  if l.schedule > t + greatest(60, 100 * interval_s) then  -- the clock was set back
    l.schedule := '-infinity'; l.leaving := '{}';
  end if;
  n := array_position(l.leaving, told);
  if n is not null then
    l.leaving[n] := left_at;
    l.leaving := array(select x from unnest(l.leaving) x order by x);
  end if;
  n := cardinality(l.leaving);
  l.schedule := greatest(l.schedule + interval_s, t - 2 * interval_s);
  at := greatest(t, l.schedule);
  if n >= depth then at := greatest(at, l.leaving[n - depth + 1] + window_s); end if;
  wait_s := at - t;
  until := at + late_s;
  l.leaving := l.leaving || until;
  if until < l.leaving[n] then
    l.leaving := array(select x from unnest(l.leaving) x order by x);
  end if;
  if n >= 2 * depth + 20 then l.leaving := l.leaving[n - 2 * depth - 18 :]; end if;
  update lane x set schedule = l.schedule, leaving = l.leaving where x.name = the_lane;
end $$;

-- Somebody has said that this database counts, as it stands: hosts that have seen more of it believe that.
alter table acctops.home add column adopted_at timestamptz;
create or replace function acctops.adopt() returns void
language sql security definer set search_path = acctops, pg_temp as $$
  update home set place = acctops.place(), adopted_at = clock_timestamp()
$$;
