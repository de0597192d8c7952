package redisnode

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/clusterworks/deploy/jobs/wire"
)

// dump returns all that an instance has, in all its databases, as a client sees it.
func dump(t *testing.T, c wire.Credentials) []string {
	t.Helper()
	all := map[string]string{}
	for _, database := range []int{0, 3} {
		app := as(t, c)
		conn := app.Conn()
		must(t, conn.Select(t.Context(), database).Err())
		keys, err := conn.Keys(t.Context(), "*").Result()
		must(t, err)
		for _, key := range keys {
			value, err := conn.Dump(t.Context(), key).Result()
			must(t, err)
			expiry, err := conn.Do(t.Context(), "PEXPIRETIME", key).Int64()
			must(t, err)
			all[fmt.Sprint(database, " ", key)] = fmt.Sprintf("%x until %d", value, expiry)
		}
		must(t, conn.Close())
	}
	list := []string{}
	for _, key := range slices.Sorted(maps.Keys(all)) {
		list = append(list, key+": "+all[key])
	}
	return list
}

// TestRollback: what is in a snapshot replaces everything, under the users and passwords
// that were there, and is still there after the server has begun again; a snapshot that
// was changed replaces nothing.
func TestRollback(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	f := start(t, fmt.Sprintf("snapshots: {folder: %s}\n", folder))
	ctx := t.Context()
	one, other := f.Provision(), f.Provision()
	a, b := f.Bind(one), f.Bind(one)
	must(t, as(t, other).Set(ctx, "theirs", 1, 0).Err())
	app := as(t, a)
	for _, command := range [][]any{
		{"SET", "text", "\x00\xff binary"}, {"SET", "later", "v", "PX", "86400000"}, {"RPUSH", "list", "1", "2"}, {"HSET", "hash", "f", "v"}, {"ZADD", "sorted", "1", "m"}, {"XADD", "stream", "1-1", "f", "v"},
		{"SADD", "set", "1", "2"}, {"SET", "large", strings.Repeat("large", 20_000)},
		{"FUNCTION", "LOAD", "#!lua name=lib\nredis.register_function('f', function() return 7 end)"},
	} {
		must(t, app.Do(ctx, command...).Err())
	}
	conn := app.Conn()
	must(t, conn.Select(ctx, 3).Err())
	must(t, conn.Set(ctx, "elsewhere", "v", 0).Err())
	must(t, conn.Close())
	want := dump(t, a)
	id := f.Snapshot(one)

	stays := as(t, b)
	must(t, stays.FlushAll(ctx).Err())
	must(t, stays.Do(ctx, "FUNCTION", "FLUSH").Err())
	must(t, stays.Set(ctx, "text", "other", 0).Err())
	f.Rollback(one, id)
	if diff := cmp.Diff(want, dump(t, b)); diff != "" {
		t.Error("after the rollback:\n" + diff)
	}
	if n, err := as(t, a).Do(ctx, "FCALL", "f", 0).Int(); err != nil || n != 7 {
		t.Errorf("a function: %d, %v", n, err)
	}
	must(t, as(t, a).Set(ctx, "after", "v", 0).Err())
	f.Stop()
	f.Start()
	must(t, as(t, a).Del(ctx, "after").Err())
	if diff := cmp.Diff(want, dump(t, b)); diff != "" {
		t.Error("after another start:\n" + diff)
	}
	if got, err := as(t, other).Get(ctx, "theirs").Result(); err != nil || got != "1" {
		t.Errorf("another instance has %q, %v", got, err)
	}

	f.Tamper(folder, one, id)
	j := f.Job(wire.ServiceRollbackSnapshot, wire.SnapshotRequest{InstanceID: one.Name(), SnapshotID: id})
	if j.Status != wire.JobFailed || j.Error == nil || cmp.Diff(want, dump(t, b)) != "" {
		t.Errorf("a snapshot that was changed: %+v", j)
	}
	for _, left := range []string{dumpFile, loadFolder} {
		if _, err := os.Stat(filepath.Join(f.Base, "servers", one.Name(), left)); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", left, err)
		}
	}
	f.Unbind(a)
	denied(t, "an unbound user", as(t, a).Ping(ctx).Err())
	f.Unprovision(one)
	if entries, err := os.ReadDir(filepath.Join(folder, f.ID, one.Name())); err == nil {
		t.Errorf("the snapshots of a service that was deleted are left: %v", entries)
	}
}

// TestMove: an instance moves with all that is in it, its users and their passwords,
// and its snapshots; what it leaves behind lets nobody in.
func TestMove(t *testing.T) {
	t.Parallel()
	snapshots := t.TempDir()
	shared := fmt.Sprintf("migration_nfs: %s\nsnapshots: {folder: %s}\n", t.TempDir(), snapshots)
	from, to := start(t, shared), start(t, shared)
	ctx := t.Context()
	must(t, as(t, to.Provision()).Set(ctx, "theirs", 1, 0).Err())
	one := from.Provision()
	gone, a, b := from.Bind(one), from.Bind(one), from.Bind(one)
	from.Unbind(gone)
	app := as(t, a)
	for _, command := range [][]any{
		{"SET", "text", "\x00\xff binary"}, {"SET", "later", "v", "PX", "86400000"}, {"RPUSH", "list", "1", "2"}, {"SET", "large", strings.Repeat("large", 20_000)},
	} {
		must(t, app.Do(ctx, command...).Err())
	}
	must(t, app.Set(ctx, "before", 1, 0).Err())
	earlier := dump(t, b)
	id := from.Snapshot(one)
	must(t, app.Del(ctx, "before").Err())
	want := dump(t, b)
	moved := from.Move(to, one, a, b)
	if len(moved) != 3 {
		t.Fatalf("moved: %v", moved)
	}
	for at, before := range []wire.Credentials{one, a, b} {
		if after := moved[at]; after.User() != before.User() || after.Text("password") != before.Text("password") || after.Number("port") == before.Number("port") {
			t.Errorf("credentials %d are others", at)
		}
		denied(t, "who has moved, where they were", as(t, before).Ping(ctx).Err())
		if got := dump(t, moved[at]); !slices.Equal(got, want) {
			t.Errorf("%s", cmp.Diff(want, got))
		}
	}
	former := gone.Without()
	former["port"] = moved[0]["port"]
	denied(t, "a user of a former binding", as(t, former).Ping(ctx).Err())
	// The former node stays closed after it has begun again, and the new one open.
	from.Stop()
	from.Start()
	to.Stop()
	to.Start()
	denied(t, "who has moved, where they were", as(t, a).Ping(ctx).Err())
	if got := dump(t, moved[2]); !slices.Equal(got, want) {
		t.Errorf("after a restart: %s", cmp.Diff(want, got))
	}
	to.Rollback(moved[0], id)
	if got := dump(t, moved[2]); !slices.Equal(got, earlier) {
		t.Errorf("after a rollback to a snapshot of the former node: %s", cmp.Diff(earlier, got))
	}
	from.Unprovision(one)
	if left, err := os.ReadDir(filepath.Join(snapshots, from.ID, one.Name())); !os.IsNotExist(err) {
		t.Errorf("the former node has kept snapshots: %v, %v", left, err)
	}
}
