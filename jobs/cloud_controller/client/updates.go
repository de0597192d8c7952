package client

import (
	"context"
	"net/http"
	"strconv"
)

// What became of an update.
const (
	Updating   = "running"
	Updated    = "done"
	Undone     = "undone"     // the previous version runs on
	Superseded = "superseded" // a later update has taken its place
	Cancelled  = "cancelled"  // the app was stopped, or started anew
)

// Update describes how an app gets from one version to the next.
type Update struct {
	ID        int    `json:"id"` // 0: the controller stops all instances and starts them anew
	Status    string `json:"status"`
	Reason    string `json:"reason"` // why Status is none that was wished for
	Version   string `json:"version"`
	Previous  string `json:"previous"`
	Instances int    `json:"instances"`
	Replaced  int    `json:"replaced"` // instances of the version that is to run
	Back      bool   `json:"back"`     // that is the previous one again
	Canary    int    `json:"canary"`   // instances after which it waits to be promoted; 0: it does not
	Held      bool   `json:"held"`     // it waits so
	Failed    string `json:"failed"`   // id of the instance that is the reason
	// Watching says that it is done, and that the version before comes back if the new
	// one crashes within WatchS seconds from its end.
	Watching bool `json:"watching"`
	WatchS   int  `json:"watch_s"`
}

// Change describes what an update is to bring.
type Change struct {
	Cause   string `json:"cause"`
	Now     *bool  `json:"now,omitempty"`     // stop all instances, then start; nil: as the controller likes
	Release int    `json:"release,omitempty"` // to go back to; 0: the present files and settings
	Canary  int    `json:"canary,omitempty"`  // instances to replace before it waits to be promoted
	Promote bool   `json:"promote,omitempty"` // end that wait, and nothing else
	// Package holds what Upload has returned: if the app has other files by now, the
	// update is refused. "": whatever it has.
	Package string `json:"package,omitempty"`
}

// UpdateApp has a started app take its present files and settings into use. It
// returns when they are staged and the update has begun. The original's controllers
// know one kind of update only.
func (c *Client) UpdateApp(ctx context.Context, name string, change Change) (Update, error) {
	var u Update
	err := c.call(ctx, false, http.MethodPut, change, &u, "apps", name, "update")
	return u, named(err, name)
}

// UpdateOf tells how far an update has come.
func (c *Client) UpdateOf(ctx context.Context, name string, id int) (Update, error) {
	var u Update
	err := c.get(ctx, &u, "apps", name, "updates", strconv.Itoa(id))
	return u, named(err, name)
}

// LastUpdate returns the last update of an app; its ID is 0 if there was none, or if the
// controller is of the original's kind.
func LastUpdate(ctx context.Context, c *Client, name string) (Update, error) {
	var answer struct {
		Update Update `json:"update"`
	}
	err := c.get(ctx, &answer, "apps", name, "update")
	return answer.Update, named(err, name)
}

// Release is a version of an app that it can go back to.
type Release struct {
	Release int    `json:"release"`
	Version string `json:"version"`
	Cause   string `json:"cause"`
	Created int64  `json:"created"` // Unix seconds
	Present bool   `json:"present"` // runs, or would if the app were started
	// Updating says that an update is under way from it.
	Updating bool `json:"updating,omitempty"`
	// Replacing says that this update brings in another release.
	Replacing bool `json:"replacing,omitempty"`
}

// Releases lists them, the newest first.
func (c *Client) Releases(ctx context.Context, name string) ([]Release, error) {
	var list []Release
	err := c.get(ctx, &list, "apps", name, "releases")
	return list, named(err, name)
}
