package infra

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/clusterworks/deploy/deployer/internal/localvm"
)

// A deployment is not called destroyed as long as something of its machines runs.
func TestWhatStillRunsIsNotDestroyed(t *testing.T) {
	vm := filepath.Base(t.TempDir()) + "-still-runs"
	if err := CheckEnded(map[string]string{"g/0": vm}); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "sleep", "1000")
	cmd.Env = append(os.Environ(), "DEPLOY_VM="+vm)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := CheckEnded(map[string]string{"g/0": vm}); err == nil || !strings.Contains(err.Error(), "g/0") || !strings.Contains(err.Error(), "destroy again") {
		t.Errorf("got %v", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	if err := localvm.End(t.Context(), vm); err != nil {
		t.Error(err)
	}
	<-ended
	if err := CheckEnded(map[string]string{"g/0": vm}); err != nil {
		t.Error(err)
	}
}
