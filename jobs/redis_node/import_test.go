package redisnode

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/clusterworks/deploy/jobs/wire"
)

// TestImport: what was exported is, imported into another instance, the same as a client
// sees it, under that instance's own users.
func TestImport(t *testing.T) {
	t.Parallel()
	f := start(t, fmt.Sprintf("snapshots: {folder: %s}\n", t.TempDir()))
	ctx := t.Context()
	one, other := f.Provision(), f.Provision()
	a, b := f.Bind(one), f.Bind(other)
	app := as(t, a)
	for _, command := range [][]any{
		{"SET", "text", "\x00\xff \r\n binary"}, {"SET", "later", "v", "PX", "86400000"}, {"RPUSH", "list", "1", "2"}, {"HSET", "hash", "f", "v"}, {"ZADD", "sorted", "1", "m"}, {"XADD", "stream", "1-1", "f", "v"},
		{"XGROUP", "CREATE", "stream", "group", "0"}, {"SADD", "set", "1", "2"}, {"SET", "large", strings.Repeat("large", 200_000)},
		{"FUNCTION", "LOAD", "#!lua name=lib\nredis.register_function('f', function() return 7 end)"},
	} {
		must(t, app.Do(ctx, command...).Err())
	}
	conn := app.Conn()
	must(t, conn.Select(ctx, 3).Err())
	must(t, conn.Set(ctx, "elsewhere", "v", 0).Err())
	must(t, conn.Close())
	must(t, as(t, b).Set(ctx, "former", 1, 0).Err())
	want := dump(t, a)
	file := f.Export(one)
	if len(file) <= wire.MaxSerializedPiece {
		t.Errorf("the file is one piece of %d bytes", len(file))
	}
	f.Imported(other, file)
	if diff := cmp.Diff(want, dump(t, b)); diff != "" {
		t.Error("after the import:\n" + diff)
	}
	if n, err := as(t, b).Do(ctx, "FCALL", "f", 0).Int(); err != nil || n != 7 {
		t.Errorf("a function: %d, %v", n, err)
	}
	denied(t, "the user of the instance that was exported", as(t, withPort(a, b)).Ping(ctx).Err())
	f.Stop()
	f.Start()
	if diff := cmp.Diff(want, dump(t, b)); diff != "" {
		t.Error("after another start:\n" + diff)
	}
	for _, instance := range []wire.Credentials{one, other} {
		if _, err := os.Stat(filepath.Join(f.Base, "servers", instance.Name(), asideFolder)); !os.IsNotExist(err) {
			t.Errorf("a server's files are left: %v", err)
		}
	}
}

// withPort returns a user's credentials at another instance's port.
func withPort(c, at wire.Credentials) wire.Credentials {
	c = c.Without()
	c["port"] = at["port"]
	return c
}

// TestHostileImport: a file does what the instance's users may do, and nothing else; what
// it may not do, or is no file of commands, or does not fit, is refused with a reason, and
// what was there stays.
func TestHostileImport(t *testing.T) {
	t.Parallel()
	f := start(t, fmt.Sprintf("snapshots: {folder: %s}\n", t.TempDir()))
	ctx := t.Context()
	one, other := f.Provision(), f.Provision()
	c, theirs := f.Bind(one), f.Bind(other)
	must(t, as(t, c).Set(ctx, "mine", 1, 0).Err())
	must(t, as(t, theirs).Set(ctx, "theirs", 1, 0).Err())
	command := func(words ...string) string {
		text := fmt.Sprintf("*%d\r\n", len(words))
		for _, w := range words {
			text += fmt.Sprintf("$%d\r\n%s\r\n", len(w), w)
		}
		return text
	}
	set := command("SET", "new", "1")
	bomb := command( // a script makes much of little
		"EVAL", "for i=1,1000 do redis.call('SET', i, string.rep('x', 100000)) end", "0")
	for what, file := range map[string]string{
		"its configuration": set + command("CONFIG", "SET", "dir", "/tmp"), "a module": set + command("MODULE", "LOAD", "/tmp/x.so"),
		"another server": set + command("REPLICAOF", "127.0.0.1", fmt.Sprint(theirs.Number("port"))), "a move": set + command("MIGRATE", "127.0.0.1", "1", "new", "0", "100"),
		"users": set + command("ACL", "SETUSER", "default", "on", "nopass", "+@all"), "an end": set + command("SHUTDOWN"), "debugging": set + command("DEBUG", "SEGFAULT"),
		"another user": set + command("AUTH", one.User(), "guess"), "a bad payload": set + command("RESTORE", "k", "0", "\x0e\x01\xc3\x40\x40bad"), "more than memory": bomb,
		"an RDB file": "REDIS0009\xfa\x09redis-ver\x057.0.1", "no commands": "\x00\x01\x02\xff\r\n", "a huge length": "*1\r\n$999999999999\r\nx\r\n",
	} {
		j := f.Import(one, []byte(file))
		if j.Status != wire.JobFailed || j.Error == nil || j.Error.Code != wire.ServiceMalformed || len(j.Error.Description) < 50 {
			t.Errorf("%s: %s, %+v", what, j.Status, j.Error)
		}
		if got := dump(t, c); len(got) != 1 || !strings.Contains(got[0], "mine") {
			t.Errorf("%s: %v", what, got)
		}
	}
	if got, err := as(t, theirs).Get(ctx, "theirs").Result(); err != nil || got != "1" {
		t.Errorf("another instance has %q, %v", got, err)
	}
	f.Imported(one, []byte(set))
	if got := dump(t, c); len(got) != 1 || !strings.Contains(got[0], "new") {
		t.Errorf("after an import: %v", got)
	}
}
