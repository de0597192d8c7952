package model

import (
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"strconv"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/config"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
	"github.com/clusterworks/deploy/jobs/wire"
)

// Account describes who makes a request, and what the account may have.
type Account struct {
	store.User
	Admin    bool
	Capacity config.Capacity
	// By is the admin who acts for the account; nil: its owner does.
	By *store.User
}

// ID returns an app's id as it travels in messages.
func ID(a store.App) wire.ID { return wire.ID(strconv.FormatInt(a.ID, 10)) }

// Version names what an app's instances run: its droplet, and how often it was
// started.
func Version(a store.App) string {
	hash := a.DropletHash
	if hash == "" {
		hash = a.PackageHash
	}
	if hash == "" {
		sum := sha1.Sum(fmt.Appendf(nil, "app %d without a package", a.ID))
		hash = hex.EncodeToString(sum[:])
	}
	return hash + "-" + strconv.Itoa(a.RunCount)
}

// NotNil returns the list, or an empty one: JSON has no null there.
func NotNil(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

// Debug returns the debug mode, nil if there is none.
func Debug(a store.App) *string {
	if a.Debug == "" {
		return nil
	}
	return &a.Debug
}

// Console returns nil unless the app has a console.
func Console(a store.App) *bool {
	if !a.Console {
		return nil
	}
	return &a.Console
}

// Attributes describes an app in the log.
func Attributes(a store.App) []any {
	return []any{"app", a.ID, "name", a.Name, "version", Version(a), "instances", a.Instances}
}
