package install

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/clusterworks/deploy/agent/api"
)

// What a hook that ended well has left in the background ends with it, in whatever
// session or group it is; else there would be one more after each update.
func TestHooksLeaveNothingBehind(t *testing.T) {
	t.Parallel()
	i := newInstaller(t, t.TempDir(), &recorder{running: map[ref]api.ProcessStatus{}})
	pids := filepath.Join(t.TempDir(), "pids")
	s := spec("g1", "a/one@1/1")
	s.Jobs[0].Hooks = []api.Hook{hook(api.HookPreStart,
		"sleep 1000 & echo $! >>"+pids+"; setsid sh -c 'echo $$ >>"+pids+"; exec sleep 1000' & until [ $(wc -l <"+pids+") = 2 ]; do sleep 0.02; done", time.Minute)}
	must(t, prepareAndUpdate(t, i, s))
	text, err := os.ReadFile(pids)
	must(t, err)
	all := strings.Fields(string(text))
	if len(all) != 2 {
		t.Fatalf("pids %q", text)
	}
	for _, field := range all {
		pid, err := strconv.Atoi(field)
		must(t, err)
		// Nobody may have reaped it yet.
		state, err := os.ReadFile("/proc/" + field + "/stat")
		if err == nil && !strings.Contains(string(state), ") Z ") {
			t.Errorf("%d runs on: %s", pid, state)
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}
