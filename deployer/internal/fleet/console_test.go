package fleet

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTheEndOfAConsoleIsShown: the last lines, bounded and safe to print; what is
// missing or empty is said.
func TestTheEndOfAConsoleIsShown(t *testing.T) {
	path := filepath.Join(t.TempDir(), "console.log")
	if got := lastOfConsole(""); got != "" {
		t.Errorf("without a console: %q", got)
	}
	if got := lastOfConsole(path); !strings.Contains(got, "cannot be read") {
		t.Errorf("a missing one: %q", got)
	}
	var b strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&b, "line %d\r\n", i)
	}
	b.WriteString("\x1b[31mKernel panic\x07 \u202e" + strings.Repeat("x", 5000) + "\r\n\r\n")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	got := lastOfConsole(path)
	lines := strings.Split(got, "\n")
	if len(lines) != consoleLines+1 || !strings.Contains(got, "line 4999\n  [31mKernel panic xxx") || strings.ContainsAny(got, "\x1b\x07\r\u202e") {
		t.Errorf("%d lines: %.400q", len(lines), got)
	}
	for _, line := range lines {
		if len(line) > 300 {
			t.Errorf("a line of %d bytes", len(line))
		}
	}
	if err := os.WriteFile(path, []byte("\r\n\x00"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := lastOfConsole(path); !strings.Contains(got, "has not begun to boot") {
		t.Errorf("an empty one: %q", got)
	}
}
