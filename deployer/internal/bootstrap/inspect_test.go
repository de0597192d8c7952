package bootstrap

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Whatever the umask of the SSH user, nobody else can write into the agent's
// folders; a stricter one stays as strict.
func TestInspectionLetsNobodyElseWrite(t *testing.T) {
	t.Parallel()
	for umask, want := range map[string]os.FileMode{"000": 0o755, "022": 0o755, "077": 0o700} {
		dir := filepath.Join(t.TempDir(), "var", "agent")
		cmd := exec.CommandContext(t.Context(), "sh", "-c", "umask "+umask+"; exec sh -s -- \"$0\" \"$1\"", dir, filepath.Join(dir, "bin", "agent"))
		cmd.Stdin = strings.NewReader(inspection)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		for _, name := range []string{"..", ".", "bin", "incoming"} {
			info, err := os.Stat(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if got := info.Mode().Perm(); got != want {
				t.Errorf("with umask %s, %s has mode %o, not %o", umask, name, got, want)
			}
		}
	}
}
