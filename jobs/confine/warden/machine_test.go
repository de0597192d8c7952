package warden

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

// TestSlowMachineOffersNoLess: where trials are not done in time nothing is known, rather
// than that programs cannot be kept apart.
func TestSlowMachineOffersNoLess(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	dir := t.TempDir()
	m, err := Survey(ctx, Trial{Warden: []string{"/bin/sh", "-c", "exec sleep 20"}, Records: dir, Folder: dir, User: 64321, Cgroups: CgroupName("test", dir)})
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "too slow or too busy") {
		t.Errorf("the survey ended with %v", err)
	}
	if m.Level() != "processes" || m.Cgroups != nil || m.Lacks != nil {
		t.Errorf("it found %+v", m)
	}
}
