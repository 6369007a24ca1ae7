// A helper in another language, written from docs/dts-helper-protocol.md alone, to see that the page is enough.
using System;
using System.Collections;
using System.Collections.Generic;
using System.Diagnostics;
using System.Globalization;
using System.IO;
using System.Reflection;
using System.Runtime.InteropServices;
using System.Text;
using System.Text.RegularExpressions;

public static class Helper
{
    [DllImport("libc")]
    private static extern int prctl(int option, ulong a, ulong b, ulong c, ulong d);

    [DllImport("libc")]
    private static extern int getppid();

    [DllImport("libc")]
    private static extern int geteuid();

    private static readonly HashSet<string> sent = new HashSet<string>();
    private static object application;
    private static Assembly assembly;
    private static int release;

    public static int Main(string[] arguments)
    {
        List<int> releases = new List<int>();
        string token = "";
        int parent = 0;
        for (int i = 0; i + 1 < arguments.Length; i += 2)
        {
            switch (arguments[i])
            {
                case "--release": releases.Add(int.Parse(arguments[i + 1], CultureInfo.InvariantCulture)); break;
                case "--public-key-token": token = arguments[i + 1]; break;
                case "--parent": parent = int.Parse(arguments[i + 1], CultureInfo.InvariantCulture); break;
            }
        }
        prctl(1, 9, 0, 0, 0);
        if (getppid() != parent) { return 0; }
        TextWriter answers = new StreamWriter(Console.OpenStandardOutput(), new UTF8Encoding(false));
        answers.NewLine = "\n";
        Console.SetOut(Console.Error);
        Exception first = null;
        foreach (int number in releases)
        {
            try
            {
                assembly = Assembly.Load("Microsoft.SqlServer.ManagedDTS, Version=" + number / 10
                    + ".0.0.0, Culture=neutral, PublicKeyToken=" + token);
                release = number;
                break;
            }
            catch (Exception exception) { first = first ?? exception; }
        }
        if (assembly == null)
        {
            answers.WriteLine("{\"failed\":" + Trouble(first) + "}");
            answers.Flush();
            return 3;
        }
        answers.WriteLine("{\"hello\": 1, \"pid\": " + Process.GetCurrentProcess().Id + ", \"release\": " + release
            + ", \"assembly\": " + Text(assembly.FullName) + ", \"machine\": " + Text(Environment.MachineName)
            + ", \"elevated\": " + (geteuid() == 0 ? "true" : "false") + "}");
        answers.Flush();
        TextReader requests = new StreamReader(Console.OpenStandardInput(), new UTF8Encoding(false));
        for (string line = requests.ReadLine(); line != null; line = requests.ReadLine())
        {
            string id = Regex.Match(line, "\"id\" *: *([0-9]+)").Groups[1].Value;
            string answer;
            try { answer = "\"ok\": " + Answer(Key(line, "do"), Key(line, "server"), Key(line, "instance")); }
            catch (Exception exception)
            {
                application = null;
                Exception inner = exception is TargetInvocationException ? exception.InnerException : exception;
                answer = "\"error\": " + Trouble(inner);
            }
            answers.WriteLine("{\"id\": " + id + ", " + answer + "}");
            answers.Flush();
        }
        return 0;
    }

    private static string Answer(string what, string server, string instance)
    {
        if (application == null)
        {
            application = Activator.CreateInstance(assembly.GetType("Microsoft.SqlServer.Dts.Runtime.Application"));
        }
        object[] given = { server };
        IEnumerable packages = (IEnumerable)application.GetType().GetMethod("GetRunningPackages").Invoke(application, given);
        List<string> running = new List<string>();
        List<string> rows = new List<string>();
        List<object> found = new List<object>();
        foreach (object package in packages)
        {
            string id = Get(package, "InstanceID").ToString();
            running.Add(Text(id));
            if (id == instance) { found.Add(package); }
            if (what != "list" || sent.Contains(id)) { continue; }
            string name = (string)Get(package, "PackageName");
            DateTime start = (DateTime)Get(package, "ExecutionStartTime");
            rows.Add("{\"instance\": " + Text(id) + ", \"package\": " + Text(Get(package, "PackageID").ToString())
                + ", \"name\": " + Text(name) + ", \"description\": " + Text((string)Get(package, "PackageDescription"))
                + ", \"user\": " + Text((string)Get(package, "UserName")) + ", \"start_ticks\": " + start.Ticks
                + ", \"raw_duration\": " + Get(package, "ExecutionDuration") + "}");
            if (!string.IsNullOrEmpty(name) && id != Guid.Empty.ToString()) { sent.Add(id); }
        }
        if (what == "stop")
        {
            if (found.Count > 1) { throw new AmbiguousException(); }
            foreach (object package in found) { package.GetType().GetMethod("Stop").Invoke(package, null); }
            return "{\"found\": " + (found.Count == 1 ? "true" : "false") + "}";
        }
        if (what == "probe") { return "{\"probe\": {\"packages\": [" + string.Join(", ", running) + "]}}"; }
        return "{\"running\": [" + string.Join(", ", running) + "], \"rows\": [" + string.Join(", ", rows) + "]}";
    }

    private sealed class AmbiguousException : Exception { }

    private static object Get(object of, string name) { return of.GetType().GetProperty(name).GetValue(of, null); }

    private static string Key(string line, string name)
    {
        return Regex.Match(line, "\"" + name + "\" *: *\"([^\"]*)\"").Groups[1].Value;
    }

    private static string Trouble(Exception exception)
    {
        string type = exception is AmbiguousException ? "Ambiguous" : exception.GetType().Name;
        return "{\"type\": " + Text(type) + ", \"hresult\": " + unchecked((uint)exception.HResult)
            + ", \"message\": " + Text(exception.Message) + "}";
    }

    private static string Text(string value)
    {
        if (value == null) { return "null"; }
        StringBuilder text = new StringBuilder("\"");
        foreach (char c in value)
        {
            if (c == '"' || c == '\\') { text.Append('\\').Append(c); }
            else if (c < ' ') { text.AppendFormat(CultureInfo.InvariantCulture, "\\u{0:x4}", (int)c); }
            else { text.Append(c); }
        }
        return text.Append('"').ToString();
    }
}
