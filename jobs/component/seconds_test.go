package component

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestSeconds(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0": 0, "5": 5 * time.Second, "0.25": 250 * time.Millisecond, "1e3": 1000 * time.Second, "1m30s": 90 * time.Second, "\"2h\"": 2 * time.Hour,
		"-1": -1, "-1s": -1, ".nan": -1, ".inf": -1, "1e10": -1, "1000000h": -1, "soon": -1, "[1]": -1, "{}": -1,
	} {
		file := filepath.Join(t.TempDir(), "c.yml")
		if err := os.WriteFile(file, []byte("mbus: nats://127.0.0.1\nwait: "+text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		var cfg struct {
			Config `yaml:",inline"`
			Wait   Seconds `yaml:"wait"`
		}
		cfg.Wait = 7
		_, err := Load(file, &cfg)
		if want < 0 && err == nil || want >= 0 && (err != nil || cfg.Wait.Duration() != want) {
			t.Errorf("%s: %v, %v; want %v", text, cfg.Wait.Duration(), err, want)
		}
		if want < 0 && !strings.Contains(fmt.Sprint(err), " wait: ") {
			t.Errorf("%s: the error does not name the key: %v", text, err)
		}
	}
}
