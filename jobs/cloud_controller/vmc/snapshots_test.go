package vmc

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/clusterworks/deploy/jobs/cloud_controller/client"
	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/component/componenttest"
	"github.com/clusterworks/deploy/jobs/component/gateway"
	"github.com/clusterworks/deploy/jobs/component/node"
	redisnode "github.com/clusterworks/deploy/jobs/redis_node"
)

// running is a component that has only a function to run it.
type running func(context.Context) error

func (r running) Run(ctx context.Context) error { return r(ctx) }

// redis adds Redis to the platform, and returns the folder of its node, and that of the
// snapshots.
func (p *platform) redis() (base, snapshots string) {
	p.t.Helper()
	base, snapshots = p.t.TempDir(), p.t.TempDir()
	port := componenttest.FreePort(p.t)
	p.run("redis_node", p.common("redis_node")+fmt.Sprintf("node_id: redis_node_free_0\nbase_dir: %s\nports: %d-%d\nop_time_limit: 30\nsnapshots: {folder: %s, max: 2}\n", base, port, port, snapshots),
		func(process component.Process) (runnable, error) {
			return running(func(ctx context.Context) error { return node.Run(ctx, process, redisnode.Definition()) }), nil
		})
	_, at, _ := strings.Cut(p.target, ":")
	p.run("redis_gateway", p.common("redis_gateway")+fmt.Sprintf(`port: %d
cloud_controller_uri: http://api.cf.localhost
cloud_controllers: ["127.0.0.1:%s"]
token: a-gateway-token
node_timeout: 40
double_check_orphan_interval: 40
service: {name: redis, version: "7.0", description: Redis, plans: [free], timeout: 60}
`, componenttest.FreePort(p.t), at), func(process component.Process) (runnable, error) {
		return running(func(ctx context.Context) error { return gateway.Run(ctx, process) }), nil
	})
	eventually(p.t, "Redis is offered", func() bool {
		_, out, _ := p.vmc("services")
		return strings.Contains(out, "redis")
	})
	eventually(p.t, "a node has room", func() bool {
		status, _, _ := p.vmc("create-service", "redis", "db")
		return status == 0
	})
	return base, snapshots
}

// TestSnapshots: a user makes snapshots of a service, sees, deletes and goes back to them;
// nobody else can, and what cannot be is said plainly.
func TestSnapshots(t *testing.T) {
	p := newPlatform(t)
	p.ok("register", "me@example.com")
	_, folder := p.redis()
	if out := p.ok("snapshots", "db"); !strings.Contains(out, "no snapshots of db; vmc snapshot db makes one") {
		t.Errorf("none yet: %s", out)
	}
	_, first, errOut := p.vmc("snapshot", "db", "before the update")
	first = strings.TrimSpace(first)
	if !strings.HasPrefix(first, "1-") || !strings.Contains(errOut, "Making a snapshot of db: done") {
		t.Errorf("a snapshot: %q, %s", first, errOut)
	}
	_, out, _ := p.vmc("snapshot", "db", "--json")
	var second client.Snapshot
	if err := json.Unmarshal([]byte(out), &second); err != nil || !strings.HasPrefix(second.ID, "2-") || second.Size == 0 || second.By != "user" || time.Since(second.Date) > time.Hour {
		t.Errorf("a snapshot in JSON: %s, %v", out, err)
	}
	p.fails("there are 2 snapshots, which is the most; delete one first", "snapshot", "db")
	if out := p.ok("snapshots", "db"); !strings.Contains(out, "before the update") || !strings.Contains(out, first) || !strings.Contains(out, second.ID) {
		t.Errorf("the list: %s", out)
	}
	p.fails("Replace all that is in db by the snapshot "+first+"? There is no terminal to ask on: use --force", "rollback-snapshot", "db", first)
	if out := p.ok("rollback-snapshot", "db", first, "--force"); !strings.Contains(out, "Rolling db back to "+first+": done") {
		t.Errorf("a rollback: %s", out)
	}
	p.fails("there is no such snapshot", "rollback-snapshot", "db", "9-none", "--force")
	p.fails("Service not found", "snapshots", "none")

	files, err := filepath.Glob(filepath.Join(folder, "redis_node_free_0", "*", first+".data"))
	if err != nil || len(files) != 1 {
		t.Fatalf("files: %v, %v", files, err)
	}
	must(t, os.WriteFile(files[0], []byte("tampered"), 0o600))
	p.fails("the snapshot is damaged or was changed", "rollback-snapshot", "db", first, "--force")
	p.ok("delete-snapshot", "db", first, "--force")
	if out := p.ok("snapshots", "db", "--json"); strings.Contains(out, first) || !strings.Contains(out, second.ID) {
		t.Errorf("after deleting: %s", out)
	}

	p.ok("logout")
	p.ok("register", "friend@example.com")
	for _, command := range [][]string{{"snapshots", "db"}, {"snapshot", "db"}, {"rollback-snapshot", "db", second.ID, "--force"}, {"delete-snapshot", "db", second.ID, "--force"}} {
		p.fails("Service not found", command...)
	}
	p.ok("login", "me@example.com")
	p.ok("delete-service", "db", "--force")
	eventually(t, "the snapshots are gone with their service", func() bool {
		left, err := filepath.Glob(filepath.Join(folder, "*", "*"))
		return err == nil && len(left) == 0
	})
}
